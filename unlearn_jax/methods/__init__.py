"""Unlearning rules, one file each, and their registry."""
