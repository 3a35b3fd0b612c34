r"""DP-SGD: training in which no one example can move a step by much.

.. math::
  c_i = g_i \min(1, C / ||g_i||_2), \quad
  d = (\sum_i c_i + \sigma C n) / B, \quad n \sim N(0, I), \quad
  \theta \leftarrow \theta - tx(d)

g_i is the gradient of one example, its norm is over the whole tree, and B is
the expected size of a batch, fixed beforehand: the number of examples that a
batch happens to hold would itself tell on them. The noise belongs to the sum
and is divided by B along with it.

The step alone promises nothing. An (epsilon, delta) guarantee, from
`training.accounting`, needs that:

* batches are drawn by Poisson sampling, every example with the same
  probability q at every step, with B = q times the number of examples; or each
  example stands in one batch an epoch, and the accounting claims no
  amplification by sampling;
* the loss of an example depends on no other example;
* parameters are float32 or wider: the bound of the sum holds to rounding;
* C, sigma, B and the number of steps do not come from the data;
* every step counts, also an empty one. `training.loop.run` skips a batch of
  padding alone, so choose q such that none is to be expected;
* only the parameters are published: the losses reported here, and a model
  chosen by them, are not covered.

References:
  Abadi et al., 2016, https://arxiv.org/abs/1607.00133, algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.per_example.clipping import clipped_sum
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  AugmentFn,
  Batch,
  LossFn,
  Params,
  UnlearningMethod,
)


class DpSgdState(NamedTuple):
  """State of DP-SGD.

  Attributes:
    optimizer: state of the optax transform.
    hyper: `max_norm` and `noise_multiplier` as arrays.
  """

  optimizer: optax.OptState
  hyper: dict[str, jax.Array]


def noisy_mean_gradient(
  params: Params,
  batch: Batch,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  max_norm: jax.Array | float,
  noise_multiplier: jax.Array | float,
  expected_batch: float | None = None,
  microbatch: int | None = None,
) -> Params:
  r"""Returns :math:`(\sum_i c_i + \sigma C n) / B`, of the types of `params`.

  Args:
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    key: of the noise.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    max_norm: C, at least 0; infinity, which clips nothing, without noise only.
    noise_multiplier: sigma, at least 0: the standard deviation of the noise on
      the sum, in units of C.
    expected_batch: B, at least 1; None is the width of the batch, padding
      included.
    microbatch: gradients at a time, at least 1; None is the whole batch.
  """
  size = batch['mask'].shape[0] if expected_batch is None else expected_batch
  total = clipped_sum(loss_fn, max_norm, microbatch=microbatch)(params, batch)
  std = jnp.where(noise_multiplier > 0, noise_multiplier * max_norm, 0.0)
  noise = optax.tree.random_like(key, params, dtype=jnp.float32)
  return jax.tree.map(
    lambda p, s, n: ((s + std * n) / size).astype(p.dtype), params, total, noise
  )


def dp_descend(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  max_norm: float,
  noise_multiplier: float,
  expected_batch: float | None = None,
  augment_fn: AugmentFn | None = None,
  microbatch: int | None = None,
) -> UnlearningMethod:
  """DP-SGD in the shape of a method: it reads its retain batches alone.

  Without a bound and without noise it is `training.step.descend` on full
  batches. Whatever `tx` does with the direction costs no privacy.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform.
    max_norm: C, at least 0; infinity without noise only.
    noise_multiplier: sigma, at least 0.
    expected_batch: B, at least 1; None is the width of the batches.
    augment_fn: random changes to each example on its own.
    microbatch: gradients at a time, at least 1; None is the whole batch.

  Raises:
    ValueError: if a scalar is out of bounds.
  """
  _check_low('max_norm', max_norm, 0)
  _check_low('noise_multiplier', noise_multiplier, 0)
  _check_low('expected_batch', expected_batch, 1)
  _check_low('microbatch', microbatch, 1)
  check_noise_is_finite(max_norm, noise_multiplier)

  def init_fn(params, key):
    del key
    hyper = {'max_norm': max_norm, 'noise_multiplier': noise_multiplier}
    arrays = {name: jnp.float32(value) for name, value in hyper.items()}
    return DpSgdState(tx.init(params), arrays)

  def update_fn(params, state, forget, retain, key):
    del forget
    noise_key, augment_key = jax.random.split(key)
    batch = retain if augment_fn is None else augment_fn(augment_key, retain)
    direction = noisy_mean_gradient(
      params,
      batch,
      noise_key,
      loss_fn=loss_fn,
      expected_batch=expected_batch,
      microbatch=microbatch,
      **state.hyper,
    )
    loss = masked_mean(loss_fn(params, batch), batch['mask'])
    updates, optimizer = tx.update(direction, state.optimizer, params)
    params = optax.apply_updates(params, updates)
    return params, state._replace(optimizer=optimizer), {'retain_loss': loss}

  return UnlearningMethod(init_fn, update_fn, needs=frozenset({'retain'}))


def check_noise_is_finite(max_norm: float, noise_multiplier: float) -> None:
  """Raises a ValueError if noise is asked for on a sum without a bound."""
  if noise_multiplier > 0 and max_norm == float('inf'):
    raise ValueError(f'max_norm must be finite with noise, got {max_norm}.')


def _check_low(name, value, low):
  if value is not None and not value >= low:
    raise ValueError(f'{name} must be >= {low}, got {value}.')
