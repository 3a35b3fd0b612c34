"""Many models trained or unlearned as one program."""
