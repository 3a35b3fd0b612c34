r"""The diagonal of the Fisher information, example by example.

The square of a batch-mean gradient is another quantity: for two examples with
gradients +1 and -1 it is 0, and the mean of squares is 1.
"""

import jax
import jax.numpy as jnp

from unlearn_jax.per_example.gradients import per_example_sum
from unlearn_jax.per_example.gradients import pull_sum
from unlearn_jax.per_example.microbatch import fold_pieces
from unlearn_jax.types import Batch, LossFn, Params, PredictFn


def squared_sum(
  fun: LossFn, params: Params, batch: Batch, *, microbatch: int | None = None
) -> Params:
  r"""Returns :math:`\sum_i g_i^2`, elementwise: add it up over batches.

  Args and bounds as in `per_example_sum`.
  """
  return per_example_sum(fun, params, batch, jnp.square, microbatch=microbatch)


def fisher_diagonal(
  fun: LossFn, params: Params, batch: Batch, *, microbatch: int | None = None
) -> Params:
  r"""Returns the empirical Fisher diagonal :math:`E_i[g_i^2]`; 0 of no rows.

  Args and bounds as in `per_example_sum`; `fun` is the loss, with the labels
  of the data.
  """
  return _mean(squared_sum(fun, params, batch, microbatch=microbatch), batch)


def model_squared_sum(
  predict_fn: PredictFn,
  params: Params,
  batch: Batch,
  *,
  microbatch: int | None = None,
) -> Params:
  r"""Returns :math:`\sum_i \sum_c p_c (\nabla \log p_c)^2`, no labels needed.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    microbatch: as in `per_example_grads`.
  """

  def total(piece):
    logits, pull = pull_sum(predict_fn, params, piece, jnp.square)
    p = jax.nn.softmax(logits)
    classes = logits.shape[-1]

    def add(total, label):
      # The gradient of log p_c in the logits, times sqrt(p_c).
      root = jnp.sqrt(p[:, label])[:, None]
      direction = root * (jax.nn.one_hot(label, classes)[None] - p)
      term = pull(direction.astype(logits.dtype))
      return jax.tree.map(jnp.add, total, term), None

    zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(pull, logits)
    )
    return jax.lax.scan(add, zeros, jnp.arange(classes))[0]

  return fold_pieces(total, batch, microbatch)


def model_fisher_diagonal(
  predict_fn: PredictFn,
  params: Params,
  batch: Batch,
  *,
  microbatch: int | None = None,
) -> Params:
  r"""Returns the exact Fisher diagonal, averaged over the model's own labels.

  .. math:: E_i[\sum_c p_c(x_i) (\nabla \log p_c(x_i))^2]

  Args and bounds as in `model_squared_sum`.
  """
  total = model_squared_sum(predict_fn, params, batch, microbatch=microbatch)
  return _mean(total, batch)


def _mean(total, batch):
  count = jnp.maximum((jnp.asarray(batch['mask']) > 0).sum(), 1)
  return jax.tree.map(lambda x: x / count, total)
