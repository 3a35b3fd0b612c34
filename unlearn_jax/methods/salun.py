r"""SalUn: let any rule change only the weights that the forget set cares for.

.. math::
  s = |\sum_{i \in D_f} \nabla l_i(\theta_o)|, \quad
  M = 1[s \text{ among the top } q \text{ of all}], \quad
  \theta_k = \theta_o + M \odot (\text{inner update})

Data: forget, for the mask; then what the inner rule needs (the paper's is
random label). The mask gates the step that the inner rule took, optimizer
included: a mask on the gradient would let momentum and weight decay move the
masked weights.

References:
  Fan et al., 2024, https://arxiv.org/abs/2310.12508, section 4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.training import loop
from unlearn_jax.types import (
  Batch,
  LossFn,
  MethodState,
  Params,
  UnlearningMethod,
)


class SalunState(NamedTuple):
  """State of the inner rule, and the mask: booleans shaped like `params`."""

  inner: MethodState
  mask: Params


def forget_gradient(
  params: Params, forget: Any, examples: Batch | None, *, loss_fn: LossFn
) -> Params:
  """Returns the gradient of the summed loss over stacked forget batches."""

  def add(total, batch):
    def summed_loss(params):
      losses = loss_fn(params, batch)
      return jnp.where(batch['mask'] > 0, losses * batch['mask'], 0.0).sum()

    gradient = jax.grad(summed_loss)(params)
    return jax.tree.map(jnp.add, total, gradient)

  zeros = jax.tree.map(jnp.zeros_like, params)
  return loop.fold(add, zeros, forget, examples)


def saliency_mask(
  gradient: Params, fraction: float, *, per_leaf: bool = False
) -> Params:
  """Marks the entries with the largest absolute gradient.

  Args:
    gradient: any pytree of arrays.
    fraction: q in [0, 1], the share to mark; ties at the threshold are all
      marked, so the share may come out larger.
    per_leaf: take the share inside each leaf instead of over the whole tree.

  Returns:
    booleans shaped like `gradient`.
  """
  saliency = jax.tree.map(jnp.abs, gradient)
  leaves = jax.tree.leaves(saliency)
  dtype = jnp.result_type(*leaves)

  def mark(leaf, ranked):
    count = round(fraction * ranked.size)
    if count in (0, ranked.size):
      return jnp.full(leaf.shape, count > 0)
    return leaf.astype(dtype) >= jnp.sort(ranked)[ranked.size - count]

  if per_leaf:
    return jax.tree.map(lambda s: mark(s, s.astype(dtype).ravel()), saliency)
  everything = jnp.concatenate([s.astype(dtype).ravel() for s in leaves])
  return jax.tree.map(lambda s: mark(s, everything), saliency)


def salun(
  inner: UnlearningMethod,
  loss_fn: LossFn,
  *,
  fraction: float = 0.5,
  per_leaf: bool = False,
) -> UnlearningMethod:
  """Restricts `inner` to the weights most salient for the forget set.

  `training.loop.prepare` makes the mask; before it, every weight may move.

  Args:
    inner: any method.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    fraction: q in [0, 1]; 1 is the inner rule, 0 the identity.
    per_leaf: take the share inside each leaf.

  Raises:
    ValueError: if `fraction` is outside [0, 1].
  """
  base.check_range('fraction', fraction, 0.0, 1.0)

  def init_fn(params, key):
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    return SalunState(inner.init(params, key), ones)

  def prepare_fn(params, state, forget, retain, examples, key):
    if forget is None:  # The steps need what the inner rule needs.
      raise ValueError('the mask needs forget batches, got None.')
    gradient = forget_gradient(params, forget, examples, loss_fn=loss_fn)
    mask = saliency_mask(gradient, fraction, per_leaf=per_leaf)
    inner_state = state.inner
    if inner.prepare is not None:
      moved, inner_state = inner.prepare(
        params, inner_state, forget, retain, examples, key
      )
      params = jax.tree.map(jnp.where, mask, moved, params)
    return params, SalunState(inner_state, mask)

  def update_fn(params, state, forget, retain, key):
    moved, inner_state, metrics = inner.update(
      params, state.inner, forget, retain, key
    )
    params = jax.tree.map(jnp.where, state.mask, moved, params)
    return params, SalunState(inner_state, state.mask), metrics

  return UnlearningMethod(init_fn, update_fn, prepare_fn, inner.needs)
