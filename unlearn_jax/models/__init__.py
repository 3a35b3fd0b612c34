"""Networks and their registry."""
