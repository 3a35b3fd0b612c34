r"""SuperLoss: weigh each example by its loss, easy ones up and hard ones down.

.. math::
  L_i = (l_i - \tau) \sigma_i^* + \lambda (\log \sigma_i^*)^2, \quad
  \sigma_i^* = \arg\min_\sigma L_i =
    \exp(-W(\tfrac{1}{2} \max(-\tfrac{2}{e}, (l_i - \tau) / \lambda)))

with W the principal branch of the Lambert W function. A wrapper: it gives the
rule inside L_i for l_i, and needs the data that the rule needs. The weight
carries no gradient, and needs none: at the minimum the gradient of L_i is
exactly sigma_i times that of l_i. Applied to ascent it damps the examples
whose loss is high already.

The threshold tau is a constant, such as log C, or a moving average of the mean
loss: one for the forget batches, one for the retain batches, and a mean over
examples, not over weights.

References:
  Castells, Weinzaepfel and Revaud, 2020,
  https://proceedings.neurips.cc/paper/2020/hash/2cfa8f9e50e0f510ede9d12338a5f564-Abstract.html
"""

from collections.abc import Callable
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.methods import base
from unlearn_jax.training.losses import changed
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, MethodState, UnlearningMethod

# What a batch tells the loss.
_THRESHOLD, _REGULARISATION = 'superloss_threshold', 'superloss_regularisation'

_HALLEY_STEPS = 6
# 1 / e as the sum of two numbers, for it has more digits than one.
_INVERSE_E = 0.36787944117144233, -1.2428753672788363e-17
# W in sqrt(2 (1 + e x)), highest power first, and how far it is to be trusted
# more than a division by w + 1: by the bytes of a number.
_SERIES = -221 / 8505, 769 / 17280, -43 / 540, 11 / 72, -1 / 3, 1.0, -1.0
_NEAR = {4: 0.2, 8: 0.01}


class SuperlossState(NamedTuple):
  """State of the inner rule, and of the weights.

  Attributes:
    inner: state of the inner rule.
    hyper: `regularisation`, and `threshold` or, where it moves, `rho`.
    averages: the threshold of each stream; () where it does not move.
    started: whether a stream has had an example; likewise.
  """

  inner: MethodState
  hyper: dict[str, jax.Array]
  averages: dict[str, jax.Array] | tuple[()]
  started: dict[str, jax.Array] | tuple[()]


def lambert_w(x: jax.Array) -> jax.Array:
  """Returns w >= -1 with w exp(w) = x; -1 where x is at most -1 / e.

  Beside the branch point -1 / e by its series, elsewhere by Halley's method.
  The error of exp(-w) is below 1e-12 in float64 and below 3e-6 in float32,
  the types that x may have.
  """
  x = jnp.minimum(x, jnp.finfo(x.dtype).max)
  # The distance from the branch point: no digit is lost, and the compiler may
  # not add the two constants first.
  high = np.asarray(_INVERSE_E[0], x.dtype)
  low = _INVERSE_E[0] - float(high) + _INVERSE_E[1]
  distance = jax.lax.optimization_barrier(x + high) + low
  root = jnp.sqrt(2.0 * math.e * jnp.maximum(distance, 0.0))
  series = jnp.polyval(jnp.asarray(_SERIES, x.dtype), root)
  w = jnp.where(root < 1.0, series, jnp.log1p(jnp.maximum(x, -0.5)))
  for _ in range(_HALLEY_STEPS):
    # Both sides over exp(w), which for large w would overflow.
    residual = w - x * jnp.exp(-w)
    slope = w + 1.0
    step = residual / (slope - (w + 2.0) * residual / (2.0 * slope))
    w = jnp.where(root < _NEAR[x.dtype.itemsize], w, w - step)
  return w


def superloss_weights(
  losses: jax.Array,
  threshold: jax.typing.ArrayLike,
  regularisation: jax.typing.ArrayLike,
) -> jax.Array:
  """Returns sigma [batch] in (0, e], falling in the loss, without gradient.

  Args:
    losses: [batch].
    threshold: tau, a scalar or [batch]; there the weight is 1.
    regularisation: lambda > 0, likewise; infinity gives 1 everywhere.
  """
  losses = jax.lax.stop_gradient(losses)
  losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
  return jnp.exp(-lambert_w(0.5 * ((losses - threshold) / regularisation)))


def superloss(
  losses: jax.Array,
  threshold: jax.typing.ArrayLike,
  regularisation: jax.typing.ArrayLike,
) -> jax.Array:
  """Returns L [batch]; bounds as in `superloss_weights`."""
  weights = superloss_weights(losses, threshold, regularisation)
  penalty = jnp.square(jnp.log(weights))
  # An infinite lambda times a penalty of 0 is 0.
  penalty = jnp.where(penalty > 0, regularisation * penalty, 0.0)
  return (losses - threshold) * weights + penalty


def weighted(loss_fn: LossFn) -> LossFn:
  """Returns the SuperLoss of `loss_fn`, for batches that carry a threshold.

  Of any other batch it returns `loss_fn`: so `prepare` measures plain losses.
  """

  def weigh(losses, batch):
    if _THRESHOLD not in batch:
      return losses
    threshold = batch[_THRESHOLD]
    # A loss behind the mask may be a nan, and would make a weight of it.
    losses = jnp.where(batch['mask'] > 0, losses, threshold)
    return superloss(losses, threshold, batch[_REGULARISATION])

  return changed(loss_fn, weigh)


def with_superloss(
  build: Callable[[LossFn], UnlearningMethod],
  loss_fn: LossFn,
  *,
  regularisation: float = 10.0,
  threshold: float | Literal['moving'] = 'moving',
  rho: float = 0.9,
) -> UnlearningMethod:
  """Gives a rule the SuperLoss of `loss_fn`.

  A threshold that moves is first the mean loss of the first batch with
  examples, and after each later one `rho` times itself plus 1 - `rho` times
  the mean loss of that batch, under the labels that it came with.

  Args:
    build: makes the inner rule from a loss per example.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    regularisation: lambda > 0; infinity is the inner rule, with its losses
      less the threshold.
    threshold: tau, or 'moving'.
    rho: in [0, 1]; unused where the threshold is a number.

  Raises:
    ValueError: if an option is outside its bounds.
  """
  if not regularisation > 0:
    raise ValueError(f'regularisation must be > 0, got {regularisation}.')
  fixed = _fixed(threshold)
  moves = fixed is None
  base.check_range('rho', rho, 0.0, 1.0)
  inner = build(weighted(loss_fn))
  hyper = {'regularisation': regularisation}
  hyper |= {'rho': rho} if fixed is None else {'threshold': fixed}

  def init_fn(params, key):
    sides = ('forget', 'retain') if moves else ()
    return SuperlossState(
      inner.init(params, key),
      {name: jnp.asarray(v, jnp.float32) for name, v in hyper.items()},
      {side: jnp.zeros(()) for side in sides} or (),
      {side: jnp.zeros((), bool) for side in sides} or (),
    )

  def update_fn(params, state, forget, retain, key):
    sides = {'forget': forget, 'retain': retain}
    sides = {side: batch for side, batch in sides.items() if batch is not None}
    if moves:
      used, state = _move(loss_fn, params, state, sides)
    else:
      used = {side: state.hyper['threshold'] for side in sides}
    told = {
      side: _tell(batch, used[side], state.hyper['regularisation'])
      for side, batch in sides.items()
    }
    params, inner_state, metrics = inner.update(
      params, state.inner, told.get('forget'), told.get('retain'), key
    )
    return params, state._replace(inner=inner_state), metrics

  return UnlearningMethod(init_fn, update_fn, _prepare_of(inner), inner.needs)


def _fixed(threshold: float | Literal['moving']) -> float | None:
  """Returns the threshold, or None where it moves."""
  if threshold == 'moving':
    return None
  if isinstance(threshold, str) or not math.isfinite(threshold):
    raise ValueError(
      f"threshold must be 'moving' or a finite number, got {threshold!r}."
    )
  return float(threshold)


def _mean_loss(loss_fn, params, batch):
  def evaluate():
    mean = masked_mean(loss_fn(params, batch), batch['mask'])
    return mean.astype(jnp.float32)

  return base.if_any(batch['mask'], evaluate)


def _move(loss_fn, params, state, sides):
  """Returns the thresholds of this step, and the state of the next."""
  used, averages, started = {}, dict(state.averages), dict(state.started)
  for side, batch in sides.items():
    mean = _mean_loss(loss_fn, params, batch)
    any_real = batch['mask'].sum() > 0
    old, rho = state.averages[side], state.hyper['rho']
    used[side] = jnp.where(state.started[side], old, mean)
    new = rho * used[side] + (1.0 - rho) * mean
    averages[side] = jnp.where(any_real, new, old)
    started[side] = state.started[side] | any_real
  return used, state._replace(averages=averages, started=started)


def _tell(batch: Batch, threshold, regularisation) -> Batch:
  shape = batch['mask'].shape
  return {
    **batch,
    _THRESHOLD: jnp.broadcast_to(threshold, shape),
    _REGULARISATION: jnp.broadcast_to(regularisation, shape),
  }


def _prepare_of(inner):
  if inner.prepare is None:
    return None

  def prepare_fn(params, state, forget, retain, examples, key):
    params, inner_state = inner.prepare(
      params, state.inner, forget, retain, examples, key
    )
    return params, state._replace(inner=inner_state)

  return prepare_fn
