"""The jobs of the worker, in memory and on disk."""
