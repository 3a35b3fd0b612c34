"""The loop, its state and its checkpoints."""
