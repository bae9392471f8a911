"""What the worker agrees on with the bridge: presence, leases, assignments, results."""
