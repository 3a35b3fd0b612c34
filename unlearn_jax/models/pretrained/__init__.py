"""Pretrained encoders of speech, with weights in Hugging Face format."""
