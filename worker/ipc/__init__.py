"""What the worker, its launcher and its supervisors tell each other."""
