"""Waveforms to features, and augmentation, in JAX."""
