"""Small folders in Hugging Face format, made for tests."""

import json
import pathlib

import numpy as np

from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.folder import Pretrained

_SPEECH = {
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 24,
  'conv_dim': [8] * 4,
  'conv_kernel': [10, 3, 3, 2],
  'conv_stride': [5, 4, 4, 4],
  'num_conv_pos_embeddings': 8,
  'num_conv_pos_embedding_groups': 4,
  'classifier_proj_size': 12,
}
_NORM_EACH = {
  'feat_extract_norm': 'layer',
  'do_stable_layer_norm': True,
  'conv_bias': True,
}
# Every variant of architecture and norm, as a config.json describes it.
CONFIGS = {
  'hubert_base': {'model_type': 'hubert', **_SPEECH},
  'hubert_large': {'model_type': 'hubert', **_SPEECH, **_NORM_EACH},
  'hubert_no_projection_norm': {
    'model_type': 'hubert',
    **_SPEECH,
    'feat_proj_layer_norm': False,
    'mask_time_prob': 0.0,
  },
  'wav2vec2_base': {'model_type': 'wav2vec2', **_SPEECH},
  'wav2vec2_large': {'model_type': 'wav2vec2', **_SPEECH, **_NORM_EACH},
  'wav2vec2_superb': {
    'model_type': 'wav2vec2',
    **_SPEECH,
    'use_weighted_layer_sum': True,
  },
  'wav2vec2_large_superb': {
    'model_type': 'wav2vec2',
    **_SPEECH,
    **_NORM_EACH,
    'use_weighted_layer_sum': True,
  },
  'whisper': {
    'model_type': 'whisper',
    'd_model': 16,
    'encoder_layers': 2,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 24,
    'num_mel_bins': 80,
    'max_source_positions': 50,
    'classifier_proj_size': 12,
  },
  'whisper_superb': {
    'model_type': 'whisper',
    'd_model': 16,
    'encoder_layers': 2,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 24,
    'max_source_positions': 50,
    'classifier_proj_size': 12,
    'use_weighted_layer_sum': True,
  },
}


def network(name: str, classes: int = 5) -> Network:
  """Returns a network of `CONFIGS`."""
  return Network.read(f'{name}/config.json', config(name, classes))


def config(name: str, classes: int = 5) -> dict:
  """Returns the content of a config.json."""
  names = {str(i): f'word_{i}' for i in range(classes)}
  return {**CONFIGS[name], 'id2label': names}


def make(path: pathlib.Path, name: str, *, classes: int = 5, seed: int = 0):
  """Writes a folder; returns what was put in it."""
  made = Pretrained(
    str(path),
    network(name, classes),
    params(name, classes, seed),
    True,
    config(name, classes),
    {},
  )
  folder.write(path, made, made.params)
  return made


def params(name: str, classes: int = 5, seed: int = 0):
  """Returns parameters of which none is 0 or 1 throughout."""
  import jax

  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32),
    network(name, classes).init(jax.random.key(seed)),
  )


def edit(path: pathlib.Path, **changes):
  """Changes fields of a config.json; None takes one out."""
  file = path / 'config.json'
  content = json.loads(file.read_text()) | changes
  kept = {k: v for k, v in content.items() if v is not None}
  file.write_text(json.dumps(kept))
