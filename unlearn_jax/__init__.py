"""Machine unlearning for speech, in JAX."""
