r"""Noisy ascent: ascend the forget loss with clipped gradients and noise.

.. math::
  d = (\sum_{i \in f} g_i \min(1, c / ||g_i||_2) + \sigma c n) / B
    - \lambda \nabla E_r[l_i], \quad
  n \sim N(0, I), \quad \theta \leftarrow \theta + tx(d)

Data: forget; retain too if its term is wanted. Every example is clipped by
itself, over the whole tree, so none can drive the ascent; clipping the mean
gradient of a batch bounds no example. B is the expected size of a batch: the
noise is of the size of the sum, and is divided by B along with it. The noise
is no certificate by itself: the papers below ask for convexity, or for training
that was noisy already.

References:
  Abadi et al., 2016, https://arxiv.org/abs/1607.00133, algorithm 1.
  Neel, Roth and Sharifi-Malvajerdi, 2021, https://arxiv.org/abs/2007.02923.
  Chien et al., 2024, https://arxiv.org/abs/2401.10371.
"""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.training import dp_sgd
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def noisy_ascent_direction(
  params: Params,
  forget: Batch,
  retain: Batch | None,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  max_norm: jax.Array | float,
  noise: jax.Array | float,
  retain_weight: jax.Array | float,
  expected_batch: float | None = None,
  microbatch: int | None = None,
) -> tuple[Params, Metrics]:
  """Returns -d, the direction of descent, and the mean losses.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size; None leaves its term out.
    key: of the noise.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    max_norm: c, at least 0; infinity without noise only.
    noise: sigma, at least 0.
    retain_weight: lambda, at least 0.
    expected_batch: B, at least 1; None is the width of the forget batch,
      padding included.
    microbatch: gradients at a time, at least 1; None is the whole batch.
  """
  ascent = dp_sgd.noisy_mean_gradient(
    params,
    forget,
    key,
    loss_fn=loss_fn,
    max_norm=max_norm,
    noise_multiplier=noise,
    expected_batch=expected_batch,
    microbatch=microbatch,
  )
  metrics = {
    'forget_loss': masked_mean(loss_fn(params, forget), forget['mask'])
  }
  if retain is None:
    return jax.tree.map(jnp.negative, ascent), metrics
  retain = fill_padding(retain)

  def objective(params):
    loss = masked_mean(loss_fn(params, retain), retain['mask'])
    return retain_weight * loss, loss

  descent, metrics['retain_loss'] = jax.grad(objective, has_aux=True)(params)
  return jax.tree.map(jnp.subtract, descent, ascent), metrics


def noisy_ascent(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  max_norm: float = 1.0,
  noise: float = 0.0,
  expected_batch: float | None = None,
  retain_weight: float = 0.0,
  microbatch: int | None = None,
) -> UnlearningMethod:
  """Noisy ascent as an `UnlearningMethod`; `retain` may be None.

  Without a bound and without noise it is gradient ascent on full batches.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform.
    max_norm: c, at least 0; infinity without noise only.
    noise: sigma, at least 0.
    expected_batch: B, at least 1; None is the width of the forget batches. Set
      it where that width is not the size of a batch, or is all padding but for
      a few examples.
    retain_weight: lambda, at least 0; has no say where `retain` is None.
    microbatch: gradients at a time, at least 1; None is the whole batch.

  Raises:
    ValueError: if a scalar is out of bounds.
  """
  base.check_range('max_norm', max_norm, 0.0)
  base.check_range('noise', noise, 0.0)
  base.check_range('retain_weight', retain_weight, 0.0)
  if expected_batch is not None:
    base.check_range('expected_batch', expected_batch, 1)
  if microbatch is not None:
    base.check_range('microbatch', microbatch, 1)
  dp_sgd.check_noise_is_finite(max_norm, noise)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del frozen
    return noisy_ascent_direction(
      params,
      forget,
      retain,
      key,
      loss_fn=loss_fn,
      expected_batch=expected_batch,
      microbatch=microbatch,
      **hyper,
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={
      'max_norm': max_norm,
      'noise': noise,
      'retain_weight': retain_weight,
    },
    needs=('forget',),
  )
