"""A cluster of real processes on loopback, under load, while its nodes and links fail."""
