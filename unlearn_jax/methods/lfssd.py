r"""LFSSD: selective dampening that reads neither labels nor a loss.

.. math::
  I_S = E_S[|\nabla_\theta ||z(x_i)||_2^2|], \quad
  \theta_j \leftarrow \theta_j \min((\lambda I_{D,j} / I_{f,j})^e, 1)
  \text{ where } I_{f,j} > \alpha I_{D,j}

z are the logits. Data: both, without labels; forget alone where the importance
of D is given. The edit is that of `methods.ssd`; the importance is the mean of
absolute values, not of squares, and again of one example at a time.

References:
  Foster, Schoepf and Brintrup, 2024, https://arxiv.org/abs/2402.19308.
"""

import functools

import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.methods import ssd
from unlearn_jax.per_example.gradients import per_example_sum
from unlearn_jax.types import Batch, Params, PredictFn, UnlearningMethod


def absolute_sum(
  predict_fn: PredictFn,
  params: Params,
  batch: Batch,
  *,
  microbatch: int | None = None,
) -> Params:
  r"""Returns :math:`\sum_i |\nabla_\theta ||z(x_i)||_2^2|`, elementwise.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch]; needs no `label`.
    microbatch: gradients at a time, at least 1; None is a whole batch.
  """

  def squared_output(params, batch):
    return jnp.square(predict_fn(params, batch)).sum(-1)

  return per_example_sum(
    squared_output, params, batch, jnp.abs, microbatch=microbatch
  )


def lfssd(
  predict_fn: PredictFn,
  *,
  threshold: float = 10.0,
  dampening: float = 1.0,
  exponent: float = 1.0,
  importance: Params | None = None,
  microbatch: int | None = None,
) -> UnlearningMethod:
  """LFSSD as an `UnlearningMethod`; its state reports `dampened_share`.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    threshold: alpha, at least 0; infinity is the identity.
    dampening: lambda, at least 0; infinity is the identity.
    exponent: e, at least 0; 0 is the identity.
    importance: the stored I_D, as in `ssd.ssd`, of this rule's own kind.
    microbatch: gradients at a time, at least 1; None is a whole batch.

  Raises:
    ValueError: if a scalar is out of bounds; when run, if there is neither an
      importance nor a retain set.
  """
  if microbatch is not None:
    base.check_range('microbatch', microbatch, 1)
  return ssd.selective_dampening(
    functools.partial(absolute_sum, predict_fn, microbatch=microbatch),
    threshold=threshold,
    dampening=dampening,
    exponent=exponent,
    importance=importance,
  )
