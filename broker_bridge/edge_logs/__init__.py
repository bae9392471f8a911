"""edge-logs: the operator's program that reads and follows task logs."""
