"""Decides which worker runs which job, and remembers it."""
