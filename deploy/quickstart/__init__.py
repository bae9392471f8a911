"""The whole system on one machine: ``python -m deploy.quickstart`` for people, ``stack.Stack`` for tests."""
