r"""Bad teacher: imitate a random network on the forget set, oneself elsewhere.

.. math::
  t_i = m_i p_{bad}^T(x_i) + (1 - m_i) p_o^T(x_i), \quad
  J = T^2 E_{f+r}[KL(t_i || p_s^T(x_i))]

with m_i = 1 on the forget set. Data: both. The bad teacher is the same network
freshly initialised, or (`uniform_teacher`) says 1 / C for every class.

References:
  Chundawat et al., 2023, https://arxiv.org/abs/2205.08096, section 4.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.divergence import kl_divergence
from unlearn_jax.types import (
  Batch,
  InitParamsFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)

Direction = Literal['teacher_student', 'student_teacher']


def bad_teacher_direction(
  params: Params,
  forget: Batch,
  retain: Batch,
  *,
  predict_fn: PredictFn,
  forget_logits: jax.Array,
  retain_logits: jax.Array,
  temperature: jax.typing.ArrayLike = 1.0,
  direction: Direction = 'teacher_student',
) -> tuple[Params, Metrics]:
  """Returns the gradient of J, a mean over the examples of both batches.

  Args:
    params: of the student; any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size.
    predict_fn: maps (params, batch) to logits [batch, classes].
    forget_logits: of the bad teacher on `forget`, [batch, classes].
    retain_logits: of the original model on `retain`, [batch, classes].
    temperature: T > 0.
    direction: which distribution stands first in the KL.
  """

  def divergence(params, batch, teacher_logits):
    pair = teacher_logits, predict_fn(params, batch)
    first, second = pair if direction == 'teacher_student' else pair[::-1]
    kl = kl_divergence(first, second, temperature)
    return jnp.where(batch['mask'] > 0, kl * batch['mask'], 0.0).sum()

  def objective(params):
    forget_sum = divergence(params, forget, forget_logits)
    retain_sum = divergence(params, retain, retain_logits)
    counts = forget['mask'].sum(), retain['mask'].sum()
    metrics = {
      'forget_kl': forget_sum / jnp.maximum(counts[0], 1.0),
      'retain_kl': retain_sum / jnp.maximum(counts[1], 1.0),
    }
    total = (forget_sum + retain_sum) / jnp.maximum(sum(counts), 1.0)
    return total, metrics

  return jax.grad(objective, has_aux=True)(params)


def bad_teacher(
  predict_fn: PredictFn,
  init_fn: InitParamsFn,
  tx: optax.GradientTransformation,
  *,
  temperature: float = 1.0,
  direction: Direction = 'teacher_student',
  uniform_teacher: bool = False,
) -> UnlearningMethod:
  """Bad teacher as an `UnlearningMethod`.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    init_fn: gives the bad teacher, from the key of the run.
    tx: any optax transform.
    temperature: T > 0.
    direction: which distribution stands first in the KL.
    uniform_teacher: the bad teacher says 1 / C for every class.

  Raises:
    ValueError: if an option is outside its bounds.
  """
  if not temperature > 0:
    raise ValueError(f'temperature must be > 0, got {temperature}.')
  if direction not in ('teacher_student', 'student_teacher'):
    raise ValueError(
      "direction must be 'teacher_student' or 'student_teacher', got "
      f'{direction!r}.'
    )

  def freeze(params, key):
    return {'good': params, 'bad': () if uniform_teacher else init_fn(key)}

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key
    if uniform_teacher:
      shape = jax.eval_shape(predict_fn, params, forget)
      forget_logits = jnp.zeros(shape.shape, shape.dtype)
    else:
      forget_logits = predict_fn(frozen['bad'], forget)
    return bad_teacher_direction(
      params,
      forget,
      retain,
      predict_fn=predict_fn,
      forget_logits=forget_logits,
      retain_logits=predict_fn(frozen['good'], retain),
      direction=direction,
      **hyper,
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={'temperature': temperature},
    freeze=freeze,
    needs=('forget', 'retain'),
  )
