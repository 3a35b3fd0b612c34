"""Networks by name, and what each reads. A new network is one file, one row."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.types import Batch, InitParamsFn, InputError, Params, PredictFn


class Network(NamedTuple):
  """A row of the registry.

  Attributes:
    module: maps a number of classes to a module.
    reads: the name in a batch of what the module is called with.
    blocks: path prefixes of its parameters from input to output; the last is
      the linear head. Those that are modules at the top are its layers.
    batch_axis: of the outputs of its layers.
    channel_axis: likewise.
  """

  module: Callable[[int], nn.Module]
  reads: str
  blocks: tuple[str, ...]
  batch_axis: int = 0
  channel_axis: int = -1


class Classifier(NamedTuple):
  """A network as the rest of the library sees it: two pure functions.

  Attributes:
    init_fn: maps a key to fresh parameters.
    predict_fn: maps (params, batch) to logits [batch, classes].
    input_name: the name in a batch of what the network reads.
    blocks: path prefixes of its parameters from input to output.
    layers_fn: maps (params, batch) to the output of each block by its name,
      [batch, channels], mean over time.
  """

  init_fn: InitParamsFn
  predict_fn: PredictFn
  input_name: str
  blocks: tuple[str, ...]
  layers_fn: Callable[[Params, Batch], dict[str, jax.Array]]


NETWORKS = {
  'tc_resnet8': Network(
    TCResNet8,
    reads='features',
    blocks=(
      'Conv1d_0',
      *(f'ResidualBlock_{i}' for i in range(3)),
      'Dense_0',
    ),
    batch_axis=-1,
    channel_axis=0,
  ),
}


def build(
  name: str, num_classes: int, input_shape: Sequence[int]
) -> Classifier:
  """Builds a network for examples of one shape.

  Args:
    name: in `NETWORKS`.
    num_classes: at least 2.
    input_shape: of one example, for instance [frames, bins].

  Raises:
    InputError: if there is no such network.
  """
  if name not in NETWORKS:
    raise InputError(f'--model={name}: must be one of {", ".join(NETWORKS)}.')
  network = NETWORKS[name]
  module = network.module(num_classes)

  @functools.partial(jax.jit)
  def init_fn(key):
    return module.init(key, jnp.zeros((1, *input_shape)))['params']

  def predict_fn(params, batch):
    return module.apply({'params': params}, batch[network.reads])

  def layers_fn(params, batch):
    _, state = module.apply(
      {'params': params},
      batch[network.reads],
      capture_intermediates=lambda m, _: (
        m.path and m.path[-1] in network.blocks and len(m.path) == 1
      ),
      mutable='intermediates',
    )
    return {
      name: _pooled(network, state['intermediates'][name]['__call__'][0])
      for name in network.blocks
    }

  return Classifier(
    init_fn, predict_fn, network.reads, network.blocks, layers_fn
  )


def _pooled(network, x):
  """Returns [batch, channels], mean over all other axes."""
  x = jnp.moveaxis(x, (network.batch_axis, network.channel_axis), (0, 1))
  return x.mean(tuple(range(2, x.ndim)))
