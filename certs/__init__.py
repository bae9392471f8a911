"""Keys and certificates: who may connect, and as whom. Imports nothing else of ours."""
