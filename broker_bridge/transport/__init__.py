"""How packets reach a broker: one port, three adapters (paho over WSS, the embedded broker in process, memory)."""
