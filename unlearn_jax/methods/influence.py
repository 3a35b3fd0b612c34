r"""Influence: the one Newton step that the removal of the forget set asks for.

.. math::
  R(\theta) = \sum_{D_r} l_i + \tfrac{n_r}{2} w ||\theta||^2, \quad
  \theta \leftarrow \theta - s (H_r + \mu I)^{-1} \nabla R(\theta)

with the Hessian :math:`H_r` of R; of a quadratic loss this is retraining. Where
the same sum over all of D is stationary, :math:`\nabla R` equals
:math:`-\sum_{D_f} g_i - n_f w \theta`, the `gradient` 'forget'. The other one,
'retain', is :math:`\nabla R` itself and holds anywhere. But a recipe leaves a
network short of the optimum of R, and would leave a retrained one short of it
too: there 'retain' takes a step that has little to do with the forget set.

The system is solved by conjugate gradients, with products of the Hessian or of
the Gauss-Newton matrix over the retain set, or over a random part of it that
stands for all. The damping is relative: :math:`\mu` is `damping` times the mean
of the diagonal of the matrix without w. There are no steps:
`training.loop.prepare` makes the edit. Data: both; for 'retain' the retain set
alone.

References:
  Koh and Liang, 2017, https://arxiv.org/abs/1703.04730.
  Guo et al., 2020, https://arxiv.org/abs/1911.03030.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.methods import curvature as curvature_lib
from unlearn_jax.per_example import hessian
from unlearn_jax.types import (
  Batch,
  LossFn,
  Metrics,
  Params,
  PredictFn,
  Side,
  UnlearningMethod,
)

Gradient = Literal['forget', 'retain']


def influence_direction(
  params: Params,
  forget: Any,
  retain: Any,
  examples: Batch | None,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  predict_fn: PredictFn,
  gradient: Gradient,
  curvature: curvature_lib.Curvature,
  samples: int | None,
  damping: jax.typing.ArrayLike,
  weight_decay: jax.typing.ArrayLike,
  max_iterations: jax.typing.ArrayLike,
  tolerance: jax.typing.ArrayLike,
) -> tuple[Params, Metrics]:
  r"""Returns :math:`(H_r + \mu I)^{-1} \nabla R`, and how the solve went.

  The arguments are those of `base.EditFn` and `influence`. The result is a tree
  like `params`, in float32 at least.
  """
  params = curvature_lib.widen(params)
  draw_key, sign_key = jax.random.split(key)
  right = curvature_lib.gradient_sum(
    params,
    forget if gradient == 'forget' else retain,
    examples,
    loss_fn=loss_fn,
    weight_decay=weight_decay,
  )
  if gradient == 'forget':
    right = jax.tree.map(jnp.negative, right)
  drawn = curvature_lib.draw(retain, samples, draw_key)
  product, mean = curvature_lib.curvature_sum(
    params,
    drawn,
    examples,
    sign_key,
    loss_fn=loss_fn,
    predict_fn=predict_fn,
    curvature=curvature,
  )
  n_retain = curvature_lib.count(retain)
  share = curvature_lib.ratio(n_retain, curvature_lib.count(drawn))
  direction, info = hessian.damped_solve(
    lambda v: jax.tree.map(lambda x: share * x, product(v)),
    right,
    damping=damping * share * mean + weight_decay * n_retain,
    max_iterations=max_iterations,
    tolerance=tolerance,
  )
  return direction, info._asdict()


def take_step(
  params: Params,
  direction: Params,
  *,
  step: jax.typing.ArrayLike,
  max_step_norm: jax.typing.ArrayLike,
) -> tuple[Params, jax.Array]:
  """Returns params - step * direction, and the norm of the change.

  Args:
    params: any pytree of arrays; the types are kept.
    direction: a tree like it.
    step: at least 0; with 0 nothing changes, whatever the direction holds.
    max_step_norm: bound on the L2 norm of the change, over the whole tree.
  """
  norm = jnp.sqrt(hessian.tree_dot(direction, direction))
  scale = jnp.minimum(step, curvature_lib.ratio(max_step_norm, norm, jnp.inf))

  def move(x, d):
    return jnp.where(scale == 0, x, (x - scale * d).astype(x.dtype))

  moved = jax.tree.map(move, params, direction)
  return moved, jnp.where(scale == 0, 0.0, scale * norm)


def influence(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  *,
  gradient: Gradient = 'forget',
  curvature: curvature_lib.Curvature = 'gauss_newton',
  samples: int | None = 200,
  step: float = 1.0,
  max_step_norm: float = float('inf'),
  damping: float = 10.0,
  weight_decay: float = 0.0,
  max_iterations: int = 10,
  tolerance: float = 1e-5,
) -> UnlearningMethod:
  """Influence as an `UnlearningMethod`.

  Its state reports `step_norm` and what `hessian.SolveInfo` says. The batches
  hold `id` [batch] int, unique for each example; `IndexBatches` have it.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    gradient: 'forget', or 'retain', which lets the forget set be None.
    curvature: 'gauss_newton', of the cross-entropy, or 'hessian', of `loss_fn`.
    samples: retain examples for the curvature, at least 1; None is all.
    step: s, at least 0.
    max_step_norm: bound on the L2 norm of the whole change, at least 0.
    damping: mu over the mean curvature, at least 0.
    weight_decay: w, at least 0.
    max_iterations: products with the curvature, at least 1.
    tolerance: relative residual that ends them, at least 0.

  Raises:
    ValueError: if an option is out of bounds.
  """
  _check_choice('gradient', gradient, ('forget', 'retain'))
  _check_choice('curvature', curvature, ('gauss_newton', 'hessian'))
  base.check_range('max_iterations', max_iterations, 1)
  rule = functools.partial(
    influence_direction,
    loss_fn=loss_fn,
    predict_fn=predict_fn,
    gradient=gradient,
    curvature=curvature,
    samples=samples,
  )
  return from_newton(
    rule,
    samples=samples,
    hyper={
      'step': step,
      'max_step_norm': max_step_norm,
      'damping': damping,
      'weight_decay': weight_decay,
      'max_iterations': max_iterations,
      'tolerance': tolerance,
    },
    report=hessian.SolveInfo._fields,
    needs=('retain',) if gradient == 'retain' else ('forget', 'retain'),
  )


def from_newton(
  direction_fn: Callable[..., tuple[Params, Metrics]],
  *,
  samples: int | None,
  hyper: Mapping[str, float],
  report: Sequence[str] = (),
  needs: Sequence[Side] = ('forget', 'retain'),
) -> UnlearningMethod:
  """Lifts a direction to a method that takes one step along it.

  Args:
    direction_fn: maps what a `base.EditFn` gets, but for hyper-parameters by
      name, to a direction and what to report.
    samples: retain examples that it draws.
    hyper: `step`, `max_step_norm` and those of `direction_fn`, at least 0.
    report: names of what it reports.
    needs: the sets without which it cannot run.

  Raises:
    ValueError: if an option is out of bounds.
  """
  if samples is not None:
    base.check_range('samples', samples, 1)
  for name, value in hyper.items():
    base.check_range(name, value, 0.0)

  def edit_fn(params, forget, retain, examples, key, hyper):
    size = {name: hyper[name] for name in ('step', 'max_step_norm')}
    rest = {name: x for name, x in hyper.items() if name not in size}
    direction, made = direction_fn(
      params, forget, retain, examples, key, **rest
    )
    params, norm = take_step(params, direction, **size)
    return params, {**made, 'step_norm': norm}

  return base.from_edit(
    edit_fn, hyper=hyper, report=('step_norm', *report), needs=needs
  )


def _check_choice(name, value, choices):
  if value not in choices:
    named = ' or '.join(map(repr, choices))
    raise ValueError(f'{name} must be {named}, got {value!r}.')
