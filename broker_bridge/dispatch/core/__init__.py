"""Decisions about jobs and workers: (state, event, now) to changed jobs and effects. No I/O, no clock, no chance."""
