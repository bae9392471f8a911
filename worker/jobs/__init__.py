"""The jobs that the worker holds, in memory and on disk."""
