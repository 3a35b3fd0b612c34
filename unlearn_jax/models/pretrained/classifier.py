"""A classifier of utterances on a pretrained encoder.

The encoder's frames, or a weighted sum over its layers, are projected, averaged
over frames that are no padding, and classified, as `transformers` does for
sequence classification and as SUPERB's checkpoints want it.

Source: Yang et al., "SUPERB: Speech processing Universal PERformance
Benchmark", Interspeech 2021, https://arxiv.org/abs/2105.01051, section 3.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.models.pretrained import layers
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained import wav2vec2
from unlearn_jax.models.pretrained import whisper
from unlearn_jax.models.pretrained.config import Fields
from unlearn_jax.models.pretrained.tensors import Tensor
from unlearn_jax.types import InputError, Params

HEAD = 'projector', 'classifier'
_ENCODERS: dict[str, Any] = {
  'wav2vec2': wav2vec2,
  'hubert': wav2vec2,
  'whisper': whisper,
}
_DEVIATION = 0.02  # Of a kernel as it begins.


@dataclasses.dataclass(frozen=True)
class Network:
  """An encoder and its head.

  Attributes:
    kind: in 'wav2vec2', 'hubert', 'whisper'.
    encoder: its sizes.
    weighted: the head reads a sum over layers, whose weights are learned.
    projection: channels of the embedding.
    class_names: what the classes are called.
  """

  kind: str
  encoder: wav2vec2.Config | whisper.Config
  weighted: bool
  projection: int
  class_names: tuple[str, ...]

  @classmethod
  def read(cls, source: str, values: Mapping[str, Any]) -> 'Network':
    """Reads a `config.json`.

    Args:
      source: the file, for errors.
      values: its content.

    Raises:
      InputError: if it describes what is not built here, or nonsense.
    """
    kind = values.get('model_type')
    if kind not in _ENCODERS:
      raise InputError(
        f'{source}: model_type {kind!r} must be one of {", ".join(_ENCODERS)}.'
      )
    fields = Fields(source, values)
    return cls(
      kind,
      _ENCODERS[kind].Config.read(fields),
      weighted=fields.flag('use_weighted_layer_sum', False),
      projection=fields.integer('classifier_proj_size', 256),
      class_names=_class_names(fields),
    )

  @property
  def blocks(self) -> tuple[str, ...]:
    """Returns the parts from input to output; 'layers[3]' is one of a stack."""
    sum_of_layers = ('layer_weights',) if self.weighted else ()
    return *self.encoder.blocks, *sum_of_layers, *HEAD

  def tensors(self) -> list[Tensor]:
    """Returns all leaves."""
    found = self.encoder.tensors()
    if self.weighted:
      count = self.encoder.stack.layers + 1
      found.append(Tensor(('layer_weights',), 'layer_weights', (count,)))
    sizes = self.encoder.stack.width, self.projection, len(self.class_names)
    for name, (inputs, outputs) in zip(
      HEAD, itertools.pairwise(sizes), strict=True
    ):
      found += tensors_lib.linear((name,), name, inputs, outputs)
    return found

  def head_tensors(self) -> list[Tensor]:
    """Returns the leaves that an encoder alone does not have."""
    return [t for t in self.tensors() if t.path[0] in ('layer_weights', *HEAD)]

  def init(self, key: jax.Array) -> Params:
    """Draws fresh parameters, as the published recipes begin."""
    params = _draw(key, self.tensors())
    if self.kind != 'whisper':
      squares = jnp.square(params['positions']['direction'])
      gain = jnp.sqrt(squares.sum((1, 2), keepdims=True))
      params['positions']['gain'] = gain
    return params

  def init_head(self, key: jax.Array) -> Params:
    """Draws fresh parameters of the head alone."""
    return _draw(key, self.head_tensors())

  def apply(
    self,
    params: Params,
    inputs: jax.Array,
    samples: jax.Array | None = None,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
  ) -> 'Output':
    """Classifies a batch.

    Args:
      params: as `init` makes them.
      inputs: what the encoder reads, as its front end makes it.
      samples: [batch] int32, those of a waveform that are no padding; None
        where all are, or where the model was trained without masks.
      dtype: of the computation in the encoder; the head is float32.
      remat: compute activations again in the backward pass.
    """
    shares = None
    if self.weighted:
      shares = jax.nn.softmax(params['layer_weights'].astype(jnp.float32))
    encoded = _ENCODERS[self.kind].encode(
      self.encoder,
      params,
      inputs.astype(dtype),
      samples,
      remat=remat,
      shares=shares,
    )
    # The mean of projections is the projection of the mean.
    frames = encoded.frames.astype(jnp.float32)
    mean = layers.masked_mean(frames, encoded.lengths)
    embedding = layers.linear(params['projector'], mean)
    logits = layers.linear(params['classifier'], embedding)
    return Output(logits, embedding, mean, encoded)


class Output(NamedTuple):
  """What a network says of a batch.

  Attributes:
    logits: [batch, classes] float32.
    embedding: [batch, projection] float32, what the last layer is given.
    mean: [batch, width] float32, what the projection is given.
    encoded: what the encoder made.
  """

  logits: jax.Array
  embedding: jax.Array
  mean: jax.Array
  encoded: layers.Encoded


def _class_names(fields):
  """Returns the names of the classes in their order."""
  names = fields.values.get('id2label', {'0': 'LABEL_0', '1': 'LABEL_1'})
  try:
    by_number = {int(number): str(name) for number, name in names.items()}
    return tuple(by_number[i] for i in range(len(by_number)))
  except (AttributeError, KeyError, ValueError):
    allowed = 'a name for each number from 0 on'
    raise fields.error('id2label', names, allowed) from None


def _draw(key, tensors):
  """Returns leaves as they begin; each has a draw of its own."""
  keys = {
    tensor: jax.random.fold_in(key, i) for i, tensor in enumerate(tensors)
  }
  return tensors_lib.tree(tensors, lambda t: _fresh(keys[t], t))


def _fresh(key, tensor):
  """Returns one leaf as it begins."""
  shape, name = tensor.leaf_shape, tensor.path[-1]
  if name in ('scale', 'bias', 'gain'):
    return jnp.full(shape, float(name != 'bias'))
  if name == 'layer_weights':
    return jnp.full(shape, 1 / shape[0])
  if tensor.path == ('positions',):
    return jnp.asarray(whisper.sinusoids(*shape))
  if name == 'masked_frame':
    return jax.random.uniform(key, shape)
  deviation = _DEVIATION
  if tensor.path[0].startswith('conv'):  # He et al.: the variance stays.
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
  elif name == 'direction':
    deviation = 2 / math.sqrt(shape[0] * shape[2])
  return deviation * jax.random.normal(key, shape)
