"""Every setting of ``[edge_mqtt]``: one schema, and where the programs find the values."""
