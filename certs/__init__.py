"""Keys and certificates: who may connect, in which role and with which name."""
