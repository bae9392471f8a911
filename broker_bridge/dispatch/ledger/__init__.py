"""The ledger: where every accepted job is stored before its acceptance is acknowledged."""
