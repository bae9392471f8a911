"""What every program here needs and no other layer knows: console, signals, version, private files, settings."""
