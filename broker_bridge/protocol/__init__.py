"""What travels on the wire: names, topics, messages and their encoding. No I/O, no clock."""
