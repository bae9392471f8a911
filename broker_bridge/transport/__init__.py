"""How packets reach a broker: one interface, three transports (paho over WSS, in process, memory)."""
