"""Losses of one example, and the masked mean that joins them."""

from collections.abc import Callable
import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.models.outputs import identity
from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.types import Batch, EmbedFn, LossFn, Params, PredictFn

OfLogitsFn = Callable[[jax.Array, Batch], jax.Array]


@dataclasses.dataclass(frozen=True)
class LogitLoss:
  """A `LossFn` that says where its logits come from, for `at_once`.

  Attributes:
    predict_fn: maps (params, batch) to logits [batch, classes].
    of_logits: maps (logits, batch) to one loss per example, [batch].
  """

  predict_fn: PredictFn
  of_logits: OfLogitsFn

  def __call__(self, params: Params, batch: Batch) -> jax.Array:
    """Returns one loss per example, [batch]."""
    return self.of_logits(self.predict_fn(params, batch), batch)


def at_once(
  *functions: LossFn | PredictFn | EmbedFn,
) -> Callable[[Params, Batch], tuple[jax.Array, ...]]:
  """Returns a function of (params, batch) to the values of several.

  Those of one network, `LogitLoss` and `OutputFn`, take one pass. Called apart
  they are one forwards, where the compiler sees that they are the same, but not
  backwards.

  Args:
    *functions: of (params, batch), each to an array [batch, ...].
  """

  def values(params, batch):
    made = {}

    def value(fun):
      if isinstance(fun, LogitLoss):
        return fun.of_logits(value(fun.predict_fn), batch)
      if isinstance(fun, OutputFn):
        return getattr(value(fun.outputs_fn), fun.name)
      key = identity(fun)
      if key not in made:
        made[key] = fun(params, batch)
      return made[key]

    return tuple(map(value, functions))

  return values


def changed(loss_fn: LossFn, change: OfLogitsFn) -> LossFn:
  """Returns the loss `change` (losses [batch], batch)."""
  if isinstance(loss_fn, LogitLoss):
    of_logits = loss_fn.of_logits
    return LogitLoss(
      loss_fn.predict_fn,
      lambda logits, batch: change(of_logits(logits, batch), batch),
    )
  return lambda params, batch: change(loss_fn(params, batch), batch)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `values` [batch] where `mask` [batch] is one; 0 if nowhere.

  A padded row may hold anything, an infinity or a nan included.
  """
  total = jnp.where(mask > 0, values * mask, 0.0).sum()
  return total / jnp.maximum(mask.sum(), 1.0)


def cross_entropy(predict_fn: PredictFn) -> LogitLoss:
  r"""Returns the loss :math:`-\log p_y(x)` of `predict_fn`, in nats.

  The batch holds `label` [batch] int32.
  """

  def of_logits(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )

  return LogitLoss(predict_fn, of_logits)


def additive_angular_margin(
  predict_fn: PredictFn, *, scale: float = 30.0, margin: float = 0.2
) -> LogitLoss:
  r"""Returns the cross-entropy that asks for a margin in angle, in nats.

  The logits of a network with the head 'aam' are :math:`s \cos\theta_c`. That
  of the true class becomes

  .. math:: s \cos(\theta_y + m)

  and, where :math:`\theta_y + m > \pi` and the cosine would rise again,
  :math:`s (\cos\theta_y + \cos m - 1)`, which joins there and goes on falling.

  Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face
  Recognition", CVPR 2019, https://arxiv.org/abs/1801.07698, equation 3; s and m
  as in ECAPA-TDNN (Desplanques et al., Interspeech 2020), section 4.2.

  Args:
    predict_fn: of a network whose logits are `scale` times cosines. The batch
      holds `label` [batch] int32.
    scale: s, > 0.
    margin: m in radians, in [0, pi / 2]; 0 is `cross_entropy`.

  Raises:
    ValueError: if a scalar is out of bounds.
  """
  if not scale > 0:
    raise ValueError(f'scale must be > 0, got {scale}.')
  if not 0 <= margin <= math.pi / 2:
    raise ValueError(f'margin must be in [0, pi / 2], got {margin}.')

  def of_logits(logits, batch):
    true = jax.nn.one_hot(batch['label'], logits.shape[-1], dtype=bool)
    # A cosine may be a rounding above 1. There, and at 1 and -1, the sine
    # counts as a constant 0, since its slope has no bound.
    cosine = logits / scale
    square = (1 - cosine) * (1 + cosine)
    sine = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)
    moved = jnp.where(
      cosine > -math.cos(margin),
      cosine * math.cos(margin) - sine * math.sin(margin),
      cosine + (math.cos(margin) - 1),
    )
    return optax.softmax_cross_entropy_with_integer_labels(
      jnp.where(true, scale * moved, logits), batch['label']
    )

  return LogitLoss(predict_fn, of_logits)
