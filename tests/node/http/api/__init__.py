"""The API from end to end: each test talks HTTP to a real node, as a client does."""
