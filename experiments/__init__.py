"""Command-line jobs; the only place that reads flags."""
