"""Corpora, splits, forget requests and batches."""
