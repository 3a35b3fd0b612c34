r"""WoodFisher: an influence step by the empirical Fisher of a few gradients.

.. math::
  \theta \leftarrow \theta + s (F + (\mu + w) I)^{-1} v, \quad
  F = \tfrac{1}{m} \sum_{i \in S} g_i g_i^T, \quad
  v = \tfrac{1}{N} \sum_{D_f} g_i - \tfrac{n_f}{N n_r} \sum_{D_r} g_i

S are m examples of the retain set, N is n_f + n_r. The inverse is exact, see
`per_example.woodfisher`. The damping is relative: :math:`\mu` is `damping`
times the mean of the diagonal of F. Most directions of a large network lie
outside of what m gradients span; there the step is v over :math:`\mu + w`, so
a small damping means a large step. `training.loop.prepare` makes the edit, and
there are no other steps. Data: both.

References:
  Jia et al., 2023, https://arxiv.org/abs/2304.04934.
  Singh and Alistarh, 2020, https://arxiv.org/abs/2004.14340.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.methods import curvature as curvature_lib
from unlearn_jax.methods.influence import from_newton
from unlearn_jax.per_example import gradients
from unlearn_jax.per_example import hessian
from unlearn_jax.per_example.woodfisher import woodfisher_solve
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def woodfisher_direction(
  params: Params,
  forget: Any,
  retain: Any,
  examples: Batch | None,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  samples: int | None,
  damping: jax.typing.ArrayLike,
  weight_decay: jax.typing.ArrayLike,
) -> tuple[Params, Metrics]:
  r"""Returns :math:`-(F + (\mu + w) I)^{-1} v`, and nothing to report.

  The arguments are those of `base.EditFn` and `woodfisher`. The result is a
  tree like `params`, in float32 at least.
  """
  params = curvature_lib.widen(params)
  of_forget, of_retain = (
    curvature_lib.gradient_sum(params, stacked, examples, loss_fn=loss_fn)
    for stacked in (forget, retain)
  )
  n_forget, n_retain = (curvature_lib.count(s) for s in (forget, retain))
  pull = hessian.add_scaled(
    of_forget, -curvature_lib.ratio(n_forget, n_retain), of_retain
  )
  drawn = curvature_lib.draw(retain, samples, key)
  batch = curvature_lib.flatten(drawn)
  if isinstance(batch, batches.IndexBatches):
    batch = batches.take(examples or {}, batch)
  rows = gradients.per_example_grads(
    loss_fn, params, batch, microbatch=jax.tree.leaves(drawn)[0].shape[1]
  )
  m = batch['mask'].sum()
  total = gradients.squared_norms(rows).sum()
  mu = (
    damping * curvature_lib.ratio(total, m * optax.tree.size(params))
    + weight_decay
  )
  some = mu > 0  # Without any curvature there is no step.
  solved = woodfisher_solve(
    rows, pull, count=m, damping=jnp.where(some, mu, 1.0)
  )
  scale = jnp.where(some, -curvature_lib.ratio(1.0, n_forget + n_retain), 0.0)
  return jax.tree.map(lambda x: scale * x, solved), {}


def woodfisher(
  loss_fn: LossFn,
  *,
  samples: int | None = 200,
  step: float = 0.2,
  max_step_norm: float = float('inf'),
  damping: float = 1.0,
  weight_decay: float = 0.0,
) -> UnlearningMethod:
  """WoodFisher as an `UnlearningMethod`; its state reports `step_norm`.

  The retain batches hold `id` [batch] int, unique for each example;
  `IndexBatches` have it.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    samples: m, at least 1, drawn by the key; None is all. As many gradients are
      held at once.
    step: s, at least 0.
    max_step_norm: bound on the L2 norm of the whole change, at least 0.
    damping: mu over the mean of the diagonal of F, above 0.
    weight_decay: w, at least 0.

  Raises:
    ValueError: if an option is out of bounds.
  """
  if not damping > 0:
    raise ValueError(f'damping must be > 0, got {damping}.')
  return from_newton(
    functools.partial(woodfisher_direction, loss_fn=loss_fn, samples=samples),
    samples=samples,
    hyper={
      'step': step,
      'max_step_norm': max_step_norm,
      'damping': damping,
      'weight_decay': weight_decay,
    },
  )
