r"""Boundary expand: teach the forget set a class that is then taken away.

.. math:: J = E_f[-\log p_C(x_i)] \quad \text{over the outputs } 0, ..., C

Data: forget. The output C belongs to the state of the method, not to the
parameters, which keep their C outputs: to drop it is to stop. Its column of the
head's kernel starts from normal numbers of variance 2 / (d + C + 1) and its
bias from 0, as in the code of the paper, and moves with the parameters.

Logits are linear in the head. So the logit that a column adds is how an output
changes when the head moves along that column, `jax.jvp`, and the network is
evaluated once for both.

References:
  Chen et al., 2023, https://arxiv.org/abs/2303.11570.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods.blocks import in_block
from unlearn_jax.methods.blocks import path_of
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)

# By path, shaped like the head's leaves without their last axis.
Column = dict[str, jax.Array]


class BoundaryExpandState(NamedTuple):
  """State of the optimizer of (params, extra), and the extra column."""

  optimizer: optax.OptState
  extra: Column


def head_leaves(params: Params, head: str) -> dict[str, jax.Array]:
  """Returns the leaves of a linear layer by their paths.

  Args:
    params: any pytree of arrays.
    head: path prefix; '' where the layer is the whole network.

  Raises:
    ValueError: if there are none, or they do not end in an axis of one size.
  """
  leaves = {
    path_of(path): leaf
    for path, leaf in jax.tree.leaves_with_path(params)
    if not head or in_block(path_of(path), head)
  }
  if not leaves:
    raise ValueError(f'head must name parameters, and {head!r} names none.')
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  ends = {shape[-1:] for shape in shapes.values()}
  if len(ends) > 1 or ends == {()}:
    raise ValueError(
      f'the leaves of head must end in one axis of classes, got {shapes}.'
    )
  return leaves


def init_column(params: Params, head: str, key: jax.Array) -> Column:
  """Draws the extra column: kernels from normal numbers, a bias of 0.

  Args:
    params: of the original model.
    head: path prefix of its linear head.
    key: of the draw.

  Raises:
    ValueError: as in `head_leaves`.
  """
  column = {}
  for path, leaf in head_leaves(params, head).items():
    shape = leaf.shape[:-1]
    if shape:
      key, draw_key = jax.random.split(key)
      std = math.sqrt(2 / (math.prod(shape) + leaf.shape[-1] + 1))
      start = std * jax.random.normal(draw_key, shape)
    else:
      start = jnp.zeros(())
    column[path] = start.astype(leaf.dtype)
  return column


def expanded_logits(
  params: Params,
  extra: Column,
  batch: Batch,
  *,
  predict_fn: PredictFn,
  head: str,
) -> jax.Array:
  """Returns logits [batch, C + 1]; the last is that of the extra column.

  Args:
    params: any pytree of arrays.
    extra: from `init_column`.
    batch: what `predict_fn` reads.
    predict_fn: maps (params, batch) to logits [batch, C], linear in the head.
    head: path prefix of the linear head.

  Raises:
    ValueError: if the head does not end in C outputs; as in `head_leaves`.
  """
  leaves = head_leaves(params, head)

  def logits_of(leaves):
    def place(path, leaf):
      return leaves.get(path_of(path), leaf)

    return predict_fn(jax.tree.map_with_path(place, params), batch)

  along = {
    path: jnp.zeros_like(leaf).at[..., 0].set(extra[path])
    for path, leaf in leaves.items()
  }
  logits, change = jax.jvp(logits_of, (leaves,), (along,))
  outputs = next(iter(leaves.values())).shape[-1]
  if outputs != logits.shape[-1]:
    raise ValueError(
      f'head must have an output for each of {logits.shape[-1]} classes, got '
      f'{outputs}.'
    )
  return jnp.concatenate([logits, change[:, :1]], axis=-1)


def boundary_expand_direction(
  params: Params,
  extra: Column,
  forget: Batch,
  *,
  predict_fn: PredictFn,
  head: str,
) -> tuple[tuple[Params, Column], Metrics]:
  """Returns the gradient of J in the parameters and in the extra column.

  Args:
    params: any pytree of arrays.
    extra: from `init_column`.
    forget: batch of the forget set; its labels are not read.
    predict_fn: maps (params, batch) to logits [batch, C], linear in the head.
    head: path prefix of the linear head.
  """
  forget = fill_padding(forget)

  def objective(pair):
    logits = expanded_logits(*pair, forget, predict_fn=predict_fn, head=head)
    losses = -jax.nn.log_softmax(logits)[:, -1]
    return masked_mean(losses, forget['mask'])

  loss, gradient = jax.value_and_grad(objective)((params, extra))
  return gradient, {'expanded_loss': loss}


def boundary_expand(
  predict_fn: PredictFn,
  tx: optax.GradientTransformation,
  *,
  head: str,
) -> UnlearningMethod:
  """Boundary expand as an `UnlearningMethod`; runs with `retain=None`.

  Args:
    predict_fn: maps (params, batch) to logits [batch, C].
    tx: any optax transform; it sees the pair (params, extra column).
    head: path prefix of the linear head, the last of a network's blocks.

  Raises:
    ValueError: in `init` if the head has no leaves, or they do not end in an
      axis of one size; at the first step if that is not C.
  """

  def init_fn(params, key):
    extra = init_column(params, head, key)
    return BoundaryExpandState(tx.init((params, extra)), extra)

  def update_fn(params, state, forget, retain, key):
    del retain, key
    gradient, metrics = boundary_expand_direction(
      params, state.extra, forget, predict_fn=predict_fn, head=head
    )
    pair = params, state.extra
    updates, optimizer = tx.update(gradient, state.optimizer, pair)
    params, extra = optax.apply_updates(pair, updates)
    return params, BoundaryExpandState(optimizer, extra), metrics

  return UnlearningMethod(init_fn, update_fn, needs=frozenset({'forget'}))
