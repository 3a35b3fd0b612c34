"""Retraining: the reference that every other method is compared with.

A fresh model, trained by the recipe of the original one on the retain set
alone, for the full number of epochs. Data: retain. It forgets exactly, at full
cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods.blocks import choose
from unlearn_jax.methods.blocks import selected
from unlearn_jax.methods.blocks import SelectFn
from unlearn_jax.training.dp_sgd import dp_descend
from unlearn_jax.training.step import descend
from unlearn_jax.types import (
  AugmentFn,
  InitParamsFn,
  LossFn,
  MethodState,
  Params,
  UnlearningMethod,
)


class FreshState(NamedTuple):
  """State of the training, and the fresh model until the first step."""

  inner: MethodState
  fresh: Params
  started: jax.Array


def start_fresh(
  training: UnlearningMethod,
  init_fn: InitParamsFn,
  select: SelectFn = lambda path: True,
) -> UnlearningMethod:
  """Lets `training` start anew, whatever the selected parameters are.

  The first step starts from `init_fn(key)`, with the key that `init` is given.

  Args:
    training: any method without `prepare` that reads retain batches.
    init_fn: maps a key to fresh parameters.
    select: says of a path whether it starts anew; the rest is left as it is.
  """

  def method_init(params, key):
    del params
    fresh = init_fn(key)
    return FreshState(training.init(fresh, key), fresh, jnp.zeros((), bool))

  def update_fn(params, state, forget, retain, key):
    begun = jax.tree.map(
      lambda old, new: jnp.where(state.started, old, new.astype(old.dtype)),
      params,
      state.fresh,
    )
    params = choose(selected(params, select), begun, params)
    params, inner, metrics = training.update(
      params, state.inner, forget, retain, key
    )
    return params, FreshState(inner, state.fresh, jnp.ones((), bool)), metrics

  return UnlearningMethod(method_init, update_fn, needs=training.needs)


def retrain(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  init_fn: InitParamsFn,
  augment_fn: AugmentFn | None = None,
  *,
  max_norm: float | None = None,
  noise_multiplier: float = 0.0,
) -> UnlearningMethod:
  """Training from scratch as an `UnlearningMethod`.

  The first step starts from `init_fn(key)`, whatever the parameters are, with
  the key that `init` is given.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: the optimizer of the training recipe, schedule included.
    init_fn: maps a key to fresh parameters.
    augment_fn: the augmentation of the training recipe.
    max_norm: bound on the gradient of one example, which makes it DP-SGD, see
      `training.dp_sgd`; None is ordinary training.
    noise_multiplier: of DP-SGD.

  Raises:
    ValueError: if a scalar is out of bounds.
  """
  if max_norm is None:
    training = descend(loss_fn, tx, augment_fn)
  else:
    training = dp_descend(
      loss_fn,
      tx,
      max_norm=max_norm,
      noise_multiplier=noise_multiplier,
      augment_fn=augment_fn,
    )
  return start_fresh(training, init_fn)
