r"""L1-sparse: fine-tune towards few weights, since these remember less.

.. math::
  J_s(\theta) = E_r[l_i] + a_s ||\theta||_1, \quad
  a_s = a (1 - s / (S - S_0)) \text{ for } s < S - S_0, \text{ else } 0

Data: retain. The penalty falls linearly over the steps s = 0, 1, ..., S - 1 of
the run and is 0 in the last S_0 of them, a share S_0 / S that may be 0 or 1.
Biases and normalisation gains are exempt. The subgradient a sign(theta) goes
through the optimizer, and sign(0) = 0. The proximal variant instead moves
every weight towards 0 by at most eta a after the step, and gives exact zeros.

References:
  Jia et al., 2023, https://arxiv.org/abs/2304.04934.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.methods.fine_tune import fine_tune_direction
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod

# Maps parameters to Python booleans shaped like them.
ExemptFn = Callable[[Params], Params]


class L1SparseState(NamedTuple):
  """State of the optimizer, what one would sweep, and the steps so far."""

  optimizer: optax.OptState
  hyper: dict[str, jax.Array]
  steps_taken: jax.Array


def is_vector(params: Params) -> Params:
  """Marks biases and normalisation gains: leaves of at most one axis."""
  return jax.tree.map(lambda x: jnp.ndim(x) <= 1, params)


def penalty_at(
  step: jax.Array | float,
  penalty: jax.Array | float,
  total_steps: jax.Array | float,
  free_fraction: jax.Array | float,
) -> jax.Array:
  """Returns the weight of the L1 norm at a step, at least 0.

  Args:
    step: s in the formula, from 0.
    penalty: a, the weight at step 0.
    total_steps: S; infinity keeps the penalty constant.
    free_fraction: share of last steps without penalty, in [0, 1], rounded to a
      whole number of steps.
  """
  share = 1.0 - free_fraction
  # Not S (1 - 1) at S = inf, which is nan.
  paid = jnp.round(jnp.where(share > 0.0, total_steps, 0.0) * share)
  falling = penalty * (1.0 - step / jnp.maximum(paid, 1.0))
  return jnp.where(step < paid, falling, 0.0)


def l1_sparse_direction(
  params: Params,
  retain: Batch,
  *,
  loss_fn: LossFn,
  penalty: jax.Array | float,
  exempt: ExemptFn = is_vector,
) -> tuple[Params, Metrics]:
  """Returns a subgradient of J, with sign(0) = 0.

  Args:
    params: any pytree of arrays.
    retain: batch of the retain set; `mask` [batch] is 0 on padding.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    penalty: weight of the L1 norm at this step, at least 0.
    exempt: marks the leaves that are not penalised.
  """
  gradient, metrics = fine_tune_direction(
    params, fill_padding(retain), loss_fn=loss_fn
  )

  def penalise(free, g, x):
    return g if free else g + (penalty * jnp.sign(x)).astype(g.dtype)

  return jax.tree.map(penalise, exempt(params), gradient, params), metrics


def soft_threshold(
  params: Params,
  threshold: jax.Array | float,
  *,
  exempt: ExemptFn = is_vector,
) -> Params:
  """Moves every entry towards 0 by `threshold`, and not past it."""

  def shrink(free, x):
    moved = jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0.0)
    return x if free else moved.astype(x.dtype)

  return jax.tree.map(shrink, exempt(params), params)


def l1_sparse(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  penalty: float = 5e-4,
  free_fraction: float = 0.2,
  proximal: bool = False,
  learning_rate: float | None = None,
  exempt: ExemptFn = is_vector,
) -> UnlearningMethod:
  """L1-sparse as an `UnlearningMethod`; the forget batch is not read.

  The length of the run is a hyper-parameter in the state, `total_steps`: set
  it with `optax.tree_utils.tree_set(state, total_steps=jnp.float32(n))` before
  the first step. Until then it is infinite and the penalty constant.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform.
    penalty: a in the formula, at least 0; 0 is fine-tuning.
    free_fraction: S_0 / S, the share of last steps without penalty, in [0, 1].
    proximal: threshold after the step instead of descending the penalty.
    learning_rate: eta, at least 0, for the proximal step alone, which needs
      it; usually that of `tx`.
    exempt: marks the leaves that are not penalised.

  Raises:
    ValueError: if an option is outside its bounds, or `proximal` is without
      `learning_rate`.
  """
  hyper = _hyper(penalty, free_fraction, proximal, learning_rate)

  def init_fn(params, key):
    del key
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in hyper.items()}
    return L1SparseState(tx.init(params), arrays, jnp.zeros((), jnp.int32))

  def update_fn(params, state, forget, retain, key):
    del forget, key
    rest = dict(state.hyper)
    rate = rest.pop('learning_rate', None)
    weight = penalty_at(state.steps_taken, **rest)
    descended = 0.0 if proximal else weight
    gradient, metrics = l1_sparse_direction(
      params, retain, loss_fn=loss_fn, penalty=descended, exempt=exempt
    )
    updates, optimizer = tx.update(gradient, state.optimizer, params)
    params = optax.apply_updates(params, updates)
    if proximal:
      params = soft_threshold(params, rate * weight, exempt=exempt)
    state = L1SparseState(optimizer, state.hyper, state.steps_taken + 1)
    return params, state, {**metrics, 'penalty': weight}

  return UnlearningMethod(init_fn, update_fn, needs=frozenset({'retain'}))


def _hyper(penalty, free_fraction, proximal, learning_rate):
  """Returns what the state holds, or raises where a value is out of bounds."""
  base.check_range('penalty', penalty, 0.0)
  base.check_range('free_fraction', free_fraction, 0.0, 1.0)
  hyper = {'penalty': penalty, 'free_fraction': free_fraction}
  if proximal:
    if learning_rate is None:
      raise ValueError('learning_rate must be given where proximal is true.')
    base.check_range('learning_rate', learning_rate, 0.0)
    hyper['learning_rate'] = learning_rate
  return {**hyper, 'total_steps': float('inf')}
