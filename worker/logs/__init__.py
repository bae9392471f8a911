"""The worker's side of task logs: files are followed and shipped."""
