r"""Confidence matching: as sure of a recording as if it had never been heard.

.. math::
  \phi_i = \log p_y - \log(1 - p_y), \quad
  \tau_i = a \phi_i(\theta_o) + b + s \xi, \quad \xi \sim N(0, 1) \\
  J = E_f[h(\phi_i - \tau_i)] + \lambda E_r[l_i]
  + \kappa E_r[KL(p_o || p)], \quad
  h(d) = d^2 / 2 \text{ for } |d| < 1, \text{ else } |d| - 1/2

Data: both. Each forget example moves to a target of its own, by a slope that is
at most 1: no example drives the run, and the push ends by itself where
forgetting has gone far enough.

Why a line: over models that heard a recording or did not, the confidence in
one that was never heard is close to a line of the confidence in it as heard,
with a slope above 1. What a model is sure of it would have known anyway; what
it is less sure of depended on having been heard. `confidence_line` reads slope
and offset off recordings that were held out, without a retrained model; jobs do
so for single recordings, studies off the retrained models of a search for all
of a speaker or a class, and audits off the members of a population
(`Preset.calibrate`). A run lowers what a model says of all that it never heard,
so both let a few models run first and allow for that.

For all of a speaker or a class the line says little of one recording, since how
a voice differs from the others is seen in part only in a model that heard it.
So at level 'set' only the mean is matched, J = h(E_f[\phi_i - \tau_i]) + ...,
and the retain terms say what is still known of each recording. Recordings that
are held to targets one by one can be told from others of the same speaker.

A class that a model has never heard has about the same logit z_y for every
recording, whatever z_y was in the original model; recordings differ by how much
they resemble other classes, which the original model says as well. So where a
class goes whole the line is of that resemblance:

.. math::
  \tau_i = b - a \lambda_i(\theta_o) + s \xi, \quad
  \lambda_i = \log \sum_{k \ne y} e^{z_k} - \text{mean}_k z_k

xi is drawn once a run. Retraining is random, and the confidence in a class that
a model has never heard varies from one retrained model to the next; models that
all meet one target could be told from them by that alone.

With a = 1 and b = s = 0 there is nothing to push at the other levels, and J is
fine-tuning with distillation.

Source: developed here; the confidence is the one by which U-LiRA judges (Hayes
et al., 2024, https://arxiv.org/abs/2403.01218).
"""

from typing import get_args, Literal

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.methods.delete import without_label
from unlearn_jax.methods.divergence import kl_divergence
from unlearn_jax.training.losses import at_once
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  LossFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)

Level = Literal['example', 'set']
Line = Literal['confidence', 'resemblance']


def logit_confidence(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns phi [batch], in nats, which does not saturate as p_y does.

  Args:
    logits: [batch, classes], at least two classes.
    label: [batch] int, each a class.
  """
  own = jnp.take_along_axis(logits, label[:, None], -1)[:, 0]
  return own - jax.nn.logsumexp(without_label(logits, label), -1)


def resemblance(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns lambda [batch], in nats: how much an example is of other classes.

  Args:
    logits: [batch, classes], at least two classes.
    label: [batch] int, each a class.
  """
  others = jax.nn.logsumexp(without_label(logits, label), -1)
  return others - logits.mean(-1)


def confidence_matching_direction(
  params: Params,
  forget: Batch,
  retain: Batch,
  *,
  loss_fn: LossFn,
  predict_fn: PredictFn,
  original: Params,
  draw: jax.typing.ArrayLike,
  slope: jax.typing.ArrayLike,
  offset: jax.typing.ArrayLike,
  spread: jax.typing.ArrayLike,
  loss_weight: jax.typing.ArrayLike,
  distill_weight: jax.typing.ArrayLike | None,
  level: Level = 'example',
  line: Line = 'confidence',
) -> tuple[Params, Metrics]:
  """Returns the gradient of J.

  Args:
    params: of the student; any pytree of arrays.
    forget: batch of the forget set, with `label` [batch] int; `mask` [batch]
      is 0 on padding.
    retain: batch of the retain set, of its own size.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    original: parameters of the original model.
    draw: xi.
    slope: a.
    offset: b, in nats.
    spread: s, at least 0, in nats.
    loss_weight: lambda, at least 0.
    distill_weight: kappa, at least 0; None leaves its term out, and does not
      ask the original model about retain examples.
    level: what is matched: the confidence in each forget example, or in the
      set of them, by its mean.
    line: what of the original model the target is a line of.
  """
  forget, retain = fill_padding(forget), fill_padding(retain)
  label = forget['label']
  logits = predict_fn(original, forget)
  if line == 'resemblance':
    known = -resemblance(logits, label)
  else:
    known = logit_confidence(logits, label)
  target = slope * known + offset + spread * draw
  teacher = None if distill_weight is None else predict_fn(original, retain)

  def objective(params):
    confidence = logit_confidence(predict_fn(params, forget), label)
    excess = confidence - target
    if level == 'set':
      push = optax.huber_loss(masked_mean(excess, forget['mask']))
    else:
      push = masked_mean(optax.huber_loss(excess), forget['mask'])
    losses, logits = at_once(loss_fn, predict_fn)(params, retain)
    loss = masked_mean(losses, retain['mask'])
    metrics = {
      'forget_confidence': masked_mean(confidence, forget['mask']),
      'forget_mismatch': push,
      'retain_loss': loss,
    }
    total = push + loss_weight * loss
    if teacher is not None:
      distance = masked_mean(kl_divergence(teacher, logits), retain['mask'])
      metrics['retain_kl'] = distance
      total = total + distill_weight * distance
    return total, metrics

  return jax.grad(objective, has_aux=True)(params)


def confidence_matching(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  tx: optax.GradientTransformation,
  *,
  slope: float = 1.25,
  offset: float = -2.0,
  spread: float = 0.0,
  loss_weight: float = 3.0,
  distill_weight: float = 10.0,
  level: Level = 'example',
  line: Line = 'confidence',
) -> UnlearningMethod:
  """Confidence matching as an `UnlearningMethod`.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    tx: any optax transform.
    slope: a, at least 0; of a model of your own, see `confidence_line`.
    offset: b, in nats; likewise.
    spread: s, at least 0, in nats.
    loss_weight: lambda, at least 0.
    distill_weight: kappa, at least 0; the number 0 leaves its term out, and
      with it a pass of the original model over all retain examples. An array
      of 0 does not, and can be changed in the state.
    level: 'example', or 'set' for all of a speaker or a class.
    line: of the 'confidence' in a recording, or of its 'resemblance' to other
      classes, for a class that goes whole.

  Raises:
    ValueError: if an option is out of bounds.
  """
  for name, value, allowed in (
    ('level', level, get_args(Level)),
    ('line', line, get_args(Line)),
  ):
    if value not in allowed:
      raise ValueError(f"{name} must be {' or '.join(allowed)}, got '{value}'.")
  base.check_range('slope', slope, 0.0)
  base.check_range('offset', offset, -float('inf'))
  base.check_range('spread', spread, 0.0)
  base.check_range('loss_weight', loss_weight, 0.0)
  base.check_range('distill_weight', distill_weight, 0.0)

  hyper = {
    'slope': slope,
    'offset': offset,
    'spread': spread,
    'loss_weight': loss_weight,
  }
  is_left_out = isinstance(distill_weight, float | int) and distill_weight == 0
  if not is_left_out:
    hyper['distill_weight'] = distill_weight

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key
    original, draw = frozen
    return confidence_matching_direction(
      params,
      forget,
      retain,
      loss_fn=loss_fn,
      predict_fn=predict_fn,
      original=original,
      draw=draw,
      level=level,
      line=line,
      **{'distill_weight': None, **hyper},
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper=hyper,
    freeze=lambda params, key: (params, jax.random.normal(key)),
    needs=('forget', 'retain'),
  )
