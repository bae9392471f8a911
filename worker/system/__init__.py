"""The operating system as the worker sees it: processes, files, memory, clock."""
