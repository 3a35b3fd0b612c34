"""The sizes of published models and of small ones, as in `config.json`.

For a fresh network of a known size: in benchmarks, to know the memory that a
method needs, and to train from nothing.
"""

from collections.abc import Mapping
from typing import Any

_NORM_EACH = {
  'feat_extract_norm': 'layer',
  'do_stable_layer_norm': True,
  'conv_bias': True,
}
_LARGE = {
  'hidden_size': 1024,
  'num_hidden_layers': 24,
  'num_attention_heads': 16,
  'intermediate_size': 4096,
}

SIZES: Mapping[str, Mapping[str, Any]] = {
  'facebook/wav2vec2-base': {'model_type': 'wav2vec2'},
  'facebook/wav2vec2-large': {'model_type': 'wav2vec2', **_LARGE},
  'facebook/hubert-base-ls960': {'model_type': 'hubert'},
  'facebook/hubert-large-ll60k': {
    'model_type': 'hubert',
    **_LARGE,
    **_NORM_EACH,
  },
  'facebook/hubert-xlarge-ll60k': {
    'model_type': 'hubert',
    'hidden_size': 1280,
    'num_hidden_layers': 48,
    'num_attention_heads': 16,
    'intermediate_size': 5120,
    **_NORM_EACH,
  },
  'openai/whisper-tiny': {'model_type': 'whisper'},
  'openai/whisper-base': {
    'model_type': 'whisper',
    'd_model': 512,
    'encoder_layers': 6,
    'encoder_attention_heads': 8,
    'encoder_ffn_dim': 2048,
  },
  # Two that two processor cores train: 50 frames a second.
  'small-hubert': {
    'model_type': 'hubert',
    'hidden_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 96,
    'conv_dim': [32, 32, 48],
    'conv_kernel': [80, 8, 4],
    'conv_stride': [40, 4, 2],
    'num_conv_pos_embeddings': 16,
    'num_conv_pos_embedding_groups': 4,
    'classifier_proj_size': 48,
    **_NORM_EACH,
  },
  'small-whisper': {
    'model_type': 'whisper',
    'd_model': 64,
    'encoder_layers': 2,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 128,
    'max_source_positions': 50,
    'classifier_proj_size': 64,
  },
}
