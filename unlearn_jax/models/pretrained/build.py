"""A pretrained model as the rest of the library sees any network."""

from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.models.pretrained.folder import Pretrained
from unlearn_jax.models.pretrained.front_end import FrontEnd
from unlearn_jax.models.registry import Classifier

INPUT = 'waveform'
STACKS = ('layers',)


def build(
  pretrained: Pretrained,
  *,
  start: Pretrained | None = None,
  dtype: Any = jnp.float32,
  remat: bool = False,
) -> Classifier:
  """Returns pure functions of parameters.

  Args:
    pretrained: the model.
    start: whose encoder a fresh model begins with, under a fresh head; None
      draws the encoder too.
    dtype: of the computation in the encoder; parameters are float32.
    remat: compute activations again in the backward pass.

  Raises:
    InputError: if its front end is none that is built here.
  """
  network = pretrained.network
  front_end = front_end_of(pretrained)

  def output(params, batch):
    inputs, samples = front_end(batch)
    return network.apply(params, inputs, samples, dtype=dtype, remat=remat)

  def init_fn(key):
    if start is None:
      return network.init(key)
    encoder = jax.tree.map(jnp.asarray, dict(start.params))
    return encoder | network.init_head(key)

  def layers_fn(params, batch):
    made = output(params, batch)
    means = {k: v.astype(jnp.float32) for k, v in made.encoded.means.items()}
    if network.weighted:
      means['layer_weights'] = made.mean
    means |= {'projector': made.embedding, 'classifier': made.logits}
    return {name: means[name] for name in network.blocks}

  return Classifier(
    init_fn,
    OutputFn(output, 'logits'),
    INPUT,
    network.blocks,
    layers_fn,
    OutputFn(output, 'embedding'),
    embedding='projector',
    head='softmax',
    logit_scale=1.0,
    stacks=STACKS,
    is_linear=is_linear,
  )


def is_linear(path: str) -> bool:
  """Says whether a path is the kernel of a linear layer."""
  return path.endswith('/kernel') and not path.startswith('conv_')


def front_end_of(pretrained: Pretrained) -> FrontEnd:
  """Reads what the model wants to hear.

  Raises:
    InputError: if it is none that is built here.
  """
  source = f'{pretrained.source}/preprocessor_config.json'
  return FrontEnd.read(source, pretrained.network, pretrained.preprocessor)
