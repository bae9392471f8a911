"""What docs/protocol.md and its JSON Schema say of the code; no program needs it to run."""
