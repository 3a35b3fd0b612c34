"""Networks by name, and what each reads. A new network is one file, one row."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models import heads
from unlearn_jax.models.bc_resnet import BCResNet
from unlearn_jax.models.ecapa_tdnn import ECAPATDNN
from unlearn_jax.models.kwt import KWT
from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.models.x_vector import XVector
from unlearn_jax.types import (
  Batch,
  EmbedFn,
  InitParamsFn,
  InputError,
  Params,
  PredictFn,
)


class Network(NamedTuple):
  """A row of the registry.

  Attributes:
    module: maps (num_classes, head) to a module.
    reads: the name in a batch of what the module is called with.
    blocks: path prefixes of its parameters from input to output; the last is
      the linear head. Those that are modules at the top are its layers.
    embedding: the block, a linear layer with a kernel [in, d] and a bias [d],
      whose output is the embedding; '' where that is no linear layer's output.
    batch_axis: of the outputs of its layers; the head's are [classes, batch].
    channel_axis: likewise.
    summary: one line for tables.
  """

  module: Callable[[int, str], nn.Module]
  reads: str
  blocks: tuple[str, ...]
  embedding: str = ''
  batch_axis: int = -1
  channel_axis: int = 0
  summary: str = ''


class Classifier(NamedTuple):
  """A network as the rest of the library sees it: pure functions.

  Attributes:
    init_fn: maps a key to fresh parameters.
    predict_fn: maps (params, batch) to logits [batch, classes].
    input_name: the name in a batch of what the network reads.
    blocks: path prefixes of its parameters from input to output.
    layers_fn: maps (params, batch) to the output of each block by its name,
      [batch, channels], mean over time.
    embed_fn: maps (params, batch) to embeddings [batch, d] float32: what the
      head is given.
    embedding: as in `Network`.
    head: in `heads.HEADS`.
    logit_scale: logits divided by it are cosines where the head is 'aam'; 1
      where it is 'softmax'.
    stacks, is_linear: as of `methods.spec.Problem`.
  """

  init_fn: InitParamsFn
  predict_fn: PredictFn
  input_name: str
  blocks: tuple[str, ...]
  layers_fn: Callable[[Params, Batch], dict[str, jax.Array]]
  embed_fn: EmbedFn
  embedding: str
  head: str
  logit_scale: float
  stacks: tuple[str, ...] = ()
  is_linear: Callable[[str], bool] | None = None


_x_vector = functools.partial(
  Network,
  reads='features',
  blocks=(*(f'frame{i}' for i in range(1, 6)), 'segment6', 'head'),
  embedding='segment6',
  summary='time-delay network with statistics pooling, for speakers',
)
_ecapa_tdnn = functools.partial(
  Network,
  reads='features',
  blocks=(
    'conv',
    *(f'block_{i}' for i in range(3)),
    'aggregation',
    'pooling',
    'embedding',
    'head',
  ),
  embedding='embedding',
  summary='time-delay network with attention to channels, for speakers',
)
_kwt = functools.partial(
  Network,
  reads='features',
  blocks=('tokens', *(f'layer_{i}' for i in range(12)), 'norm', 'head'),
  batch_axis=0,
  channel_axis=-1,
  summary='transformer over frames, for keywords; clips of one length',
)
_bc_resnet = functools.partial(
  Network,
  reads='features',
  blocks=(
    'stem',
    *(f'stage_{i}' for i in range(4)),
    'tail',
    'head',
  ),
  summary='broadcasted residuals over bins and frames, for keywords',
)

NETWORKS = {
  'tc_resnet8': Network(
    TCResNet8,
    reads='features',
    blocks=(
      'Conv1d_0',
      *(f'ResidualBlock_{i}' for i in range(3)),
      'Dense_0',
    ),
    summary='temporal convolutions, for keywords',
  ),
  'x_vector': _x_vector(XVector),
  'x_vector_small': _x_vector(
    functools.partial(
      XVector, widths=(64, 64, 64, 64, 192), embedding_size=128, group_size=8
    )
  ),
  'ecapa_tdnn': _ecapa_tdnn(ECAPATDNN),
  'ecapa_tdnn_small': _ecapa_tdnn(
    functools.partial(
      ECAPATDNN,
      channels=64,
      aggregated=192,
      scale=4,
      bottleneck=32,
      embedding_size=128,
      group_size=8,
    )
  ),
  'bc_resnet1': _bc_resnet(BCResNet),
  'bc_resnet3': _bc_resnet(functools.partial(BCResNet, tau=3)),
  'bc_resnet8': _bc_resnet(functools.partial(BCResNet, tau=8)),
  'kwt1': _kwt(KWT),
  'kwt2': _kwt(functools.partial(KWT, width=128)),
  'kwt3': _kwt(functools.partial(KWT, width=192)),
}


def build(
  name: str,
  num_classes: int,
  input_shape: Sequence[int],
  *,
  head: str = 'softmax',
) -> Classifier:
  """Builds a network for examples of one shape.

  Args:
    name: in `NETWORKS`.
    num_classes: at least 2.
    input_shape: of one example, for instance [frames, bins].
    head: in `heads.HEADS`.

  Raises:
    InputError: if there is no such network or head.
  """
  for flag, value, allowed in (
    ('model', name, tuple(NETWORKS)),
    ('head', head, heads.HEADS),
  ):
    if value not in allowed:
      raise InputError(
        f'--{flag}={value}: must be one of {", ".join(allowed)}.'
      )
  network = NETWORKS[name]
  module = network.module(num_classes, head)

  @functools.partial(jax.jit)
  def init_fn(key):
    return module.init(key, jnp.zeros((1, *input_shape)))['params']

  def outputs_fn(params, batch):
    made = module.apply({'params': params}, batch[network.reads])
    return made._replace(embedding=made.embedding.astype(jnp.float32))

  def layers_fn(params, batch):
    _, state = module.apply(
      {'params': params},
      batch[network.reads],
      capture_intermediates=lambda m, _: (
        m.path and m.path[-1] in network.blocks and len(m.path) == 1
      ),
      mutable='intermediates',
    )
    *before, last = (
      state['intermediates'][name]['__call__'][0] for name in network.blocks
    )
    axes = network.batch_axis, network.channel_axis
    outputs = [*(_pooled(x, axes) for x in before), last.transpose()]
    return dict(zip(network.blocks, outputs, strict=True))

  return Classifier(
    init_fn,
    OutputFn(outputs_fn, 'logits'),
    network.reads,
    network.blocks,
    layers_fn,
    OutputFn(outputs_fn, 'embedding'),
    network.embedding,
    head,
    heads.logit_scale(head),
  )


def _pooled(x, axes):
  """Returns [batch, channels] by their axes, mean over all others."""
  x = jnp.moveaxis(x, axes, (0, 1))
  return x.mean(tuple(range(2, x.ndim)))
