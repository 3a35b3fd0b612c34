r"""Fisher forgetting: noise where the retain set does not care for a weight.

.. math::
  \theta_j &\leftarrow \theta_j + \min((a / (F_j + d))^b, s_{max}) n_j,
  \quad n \sim N(0, I) \\
  F_j &= E_r[\sum_c p_c(x_i) (\nabla_j \log p_c(x_i))^2]
  \text{, or } E_r[(\nabla_j l_i)^2]

Data: retain. The first F averages over the labels that the model itself would
give ('model'), the second takes those of the data ('empirical'); 'model' costs
one pass for every class. Each gradient is squared by itself, so F does not
depend on how the examples are cut into batches. There are no steps:
`training.loop.prepare` makes the edit.

A class can be removed as well: its row of the linear head is drawn anew, from
N(0, 0.01^2). The head is named by the path of its parameters, never guessed
from a width.

References:
  Golatkar, Achille and Soatto, 2020, https://arxiv.org/abs/1911.04933.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods import blocks
from unlearn_jax.methods import ssd
from unlearn_jax.per_example import fisher
from unlearn_jax.types import (
  LossFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)

_REMOVED_STD = 1e-2


class ClassHead(NamedTuple):
  """One class of a linear head.

  Attributes:
    block: path prefix of the head's parameters, such as 'Dense_0'; the last
      axis of each is the classes, as in Flax.
    label: of the class, at least 0.
  """

  block: str
  label: int


def noise_std(
  information: Params,
  *,
  noise: jax.Array | float,
  exponent: jax.Array | float,
  offset: jax.Array | float,
  max_std: jax.Array | float,
) -> Params:
  r"""Returns :math:`\min((a / (F + d))^b, s_{max})`, and 0 where a is 0.

  Args:
    information: F, any pytree of arrays, at least 0.
    noise: a, at least 0.
    exponent: b, at least 0.
    offset: d, above 0.
    max_std: the cap, at least 0.
  """

  def std(f):
    found = jnp.minimum((noise / (f + offset)) ** exponent, max_std)
    return jnp.where(noise > 0, found, 0.0)

  return jax.tree.map(std, information)


def add_noise(params: Params, std: Params, key: jax.Array) -> Params:
  """Returns `params` plus noise of each entry's standard deviation.

  Args:
    params: any pytree of arrays.
    std: a tree like `params`, at least 0; where it is 0 nothing changes.
    key: the same key gives the same noise.
  """
  noise = optax.tree.random_like(key, params, dtype=jnp.float32)

  def move(x, s, n):
    return jnp.where(s == 0, x, (x + s * n).astype(x.dtype))

  return jax.tree.map(move, params, std, noise)


def remove_class(
  params: Params, std: Params, class_head: ClassHead
) -> tuple[Params, Params]:
  """Returns mean and standard deviation with one class of the head drawn anew.

  Args:
    params: any pytree of arrays.
    std: a tree like `params`.
    class_head: which class of which block.

  Raises:
    ValueError: if there is no such class or block, or if the parameters of the
      block do not agree on their last axis.
  """
  block, label = class_head
  of_head = blocks.selected(params, lambda path: blocks.in_block(path, block))
  pairs = zip(jax.tree.leaves(of_head), jax.tree.leaves(params), strict=True)
  widths = {x.shape[-1:] for is_head, x in pairs if is_head}
  if len(widths) > 1 or widths == {()}:
    raise ValueError(
      f'the parameters of {block} must end in one axis of classes, got '
      f'{sorted(widths)}.'
    )
  ((classes,),) = widths
  base.check_range('label', label, 0, classes - 1)

  def put(value):
    def into(is_head, x):
      return jnp.asarray(x).at[..., label].set(value) if is_head else x

    return into

  return (
    jax.tree.map(put(0.0), of_head, params),
    jax.tree.map(put(_REMOVED_STD), of_head, std),
  )


def fisher_forgetting(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  *,
  noise: float,
  exponent: float = 0.25,
  offset: float = 1e-8,
  max_std: float = 0.1,
  mode: Literal['model', 'empirical'] = 'model',
  class_head: ClassHead | None = None,
  microbatch: int | None = None,
) -> UnlearningMethod:
  """Fisher forgetting as an `UnlearningMethod`.

  Its state reports `mean_std`, of all entries, and `capped_share`, the share
  of them at the cap: near 1, the noise knows nothing of F.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    noise: a, at least 0; 0 is the identity.
    exponent: b, at least 0; 0.25 in the paper, 0.5 in its code.
    offset: d, above 0.
    max_std: cap on the standard deviation, at least 0; of the size of a weight,
      so that it holds for weights without information, not for all.
    mode: whose labels F averages over.
    class_head: a class to remove; None removes none.
    microbatch: gradients at a time, at least 1; None is a whole batch.

  Raises:
    ValueError: if a scalar or the mode is out of bounds; when run, if
      `class_head` does not fit the model.
  """
  base.check_range('noise', noise, 0.0)
  base.check_range('exponent', exponent, 0.0)
  if not offset > 0:
    raise ValueError(f'offset must be > 0, got {offset}.')
  base.check_range('max_std', max_std, 0.0)
  if microbatch is not None:
    base.check_range('microbatch', microbatch, 1)
  sums = {
    'model': functools.partial(fisher.model_squared_sum, predict_fn),
    'empirical': functools.partial(fisher.squared_sum, loss_fn),
  }
  if mode not in sums:
    raise ValueError(f'mode must be one of {", ".join(sums)}, got {mode}.')
  sum_fn = functools.partial(sums[mode], microbatch=microbatch)

  def edit_fn(params, forget, retain, examples, key, hyper):
    del forget
    total = ssd.importance_sums(sum_fn, params, retain, examples)
    std = noise_std(ssd.importance_mean(total), **hyper)
    report = _summary(std, hyper['max_std'])
    if class_head is not None:
      params, std = remove_class(params, std, class_head)
    return add_noise(params, std, key), report

  return base.from_edit(
    edit_fn,
    hyper={
      'noise': noise,
      'exponent': exponent,
      'offset': offset,
      'max_std': max_std,
    },
    report=('mean_std', 'capped_share'),
    needs=('retain',),
  )


def _summary(std: Params, max_std: jax.Array) -> Metrics:
  leaves = jax.tree.leaves(std)
  size = sum(s.size for s in leaves)
  return {
    'mean_std': sum(s.sum() for s in leaves) / size,
    'capped_share': sum((s >= max_std).sum() for s in leaves) / size,
  }
