"""Metrics: NumPy and SciPy, float64."""
