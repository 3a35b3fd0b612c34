"""Networks by name, and what each reads. A new network is one file, one row."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.types import InitParamsFn, InputError, PredictFn


class Network(NamedTuple):
  """A row of the registry.

  Attributes:
    module: maps a number of classes to a module.
    reads: the name in a batch of what the module is called with.
    blocks: path prefixes of its parameters from input to output; the last is
      the linear head.
  """

  module: Callable[[int], nn.Module]
  reads: str
  blocks: tuple[str, ...]


class Classifier(NamedTuple):
  """A network as the rest of the library sees it: two pure functions.

  Attributes:
    init_fn: maps a key to fresh parameters.
    predict_fn: maps (params, batch) to logits [batch, classes].
    input_name: the name in a batch of what the network reads.
    blocks: path prefixes of its parameters from input to output.
  """

  init_fn: InitParamsFn
  predict_fn: PredictFn
  input_name: str
  blocks: tuple[str, ...]


NETWORKS = {
  'tc_resnet8': Network(
    TCResNet8,
    reads='features',
    blocks=(
      'Conv1d_0',
      *(f'ResidualBlock_{i}' for i in range(3)),
      'Dense_0',
    ),
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

  return Classifier(init_fn, predict_fn, network.reads, network.blocks)
