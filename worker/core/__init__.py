"""The worker's decisions: no I/O, no clock, no threads."""
