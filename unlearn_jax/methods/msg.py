r"""MSG, masked small gradients: start anew where the two sets agree.

.. math::
  d = \nabla(E_{r'}[l_i] - E_f[l_i])(\theta_o), \quad
  M = 1[|d| \text{ among the smallest } \rho \text{ of its kernel}], \quad
  \theta \leftarrow \theta + (M + \nu (1 - M)) \odot tx(\nabla E_r[l_i])

with r' as many random retain examples as there are in the forget set. Data:
both. A weight on which the two sets pull alike is started anew, and then
learns at the full rate while all others learn at a share nu of it. Biases and
normalisation gains are never started anew. The share multiplies the update,
after the optimizer, so that weight decay and momentum have it too. r' is a
function of the key and of the examples' ids, whatever the batches are.

References:
  Cadet et al., 2024, https://arxiv.org/abs/2410.01276, who describe this entry
  of the unlearning competition of NeurIPS 2023.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.methods import base
from unlearn_jax.methods.fine_tune import fine_tune_direction
from unlearn_jax.training import loop
from unlearn_jax.types import (
  Batch,
  InitParamsFn,
  LossFn,
  Params,
  UnlearningMethod,
)


class MsgState(NamedTuple):
  """State of the steps.

  Attributes:
    optimizer: state of the optax transform.
    hyper: hyper-parameters that one would sweep, as arrays.
    mask: booleans shaped like `params`, true where weights start anew; true
      everywhere until `prepare`.
  """

  optimizer: optax.OptState
  hyper: dict[str, jax.Array]
  mask: Params


def draw_retain(key: jax.Array, forget: Any, retain: Any) -> Any:
  """Draws as many retain examples as the forget set has, or all if fewer.

  Args:
    key: the same key draws the same examples from any batches.
    forget: one pass over the forget set, stacked as in `training.loop.run`.
    retain: likewise; a dict holds `id` [steps, batch] int.

  Returns:
    stacked batches of the kind of `retain` and the shape of `forget`.
  """
  forget_mask = _mask(forget)
  mask = _mask(retain).ravel()
  ids = _ids(retain).ravel()
  draws = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(ids)
  order = jnp.lexsort((ids, draws, mask == 0))
  place = jnp.arange(forget_mask.size).reshape(forget_mask.shape)
  drawn = place < jnp.minimum(forget_mask.sum(), mask.sum())
  rows = order[jnp.minimum(place, order.size - 1)]

  def gather(x):
    return x.reshape(-1, *x.shape[2:])[rows]

  drawn = drawn.astype(mask.dtype)
  if isinstance(retain, IndexBatches):
    return IndexBatches(gather(_ids(retain)), drawn)
  return {**jax.tree.map(gather, retain), 'mask': drawn}


def _mask(stacked):
  indexed = isinstance(stacked, IndexBatches)
  return jnp.asarray(stacked.mask if indexed else stacked['mask'])


def _ids(stacked):
  indexed = isinstance(stacked, IndexBatches)
  return jnp.asarray(stacked.rows if indexed else stacked['id'])


def mean_gradient(
  params: Params, stacked: Any, examples: Batch | None, *, loss_fn: LossFn
) -> Params:
  """Returns the gradient of the mean loss over stacked batches.

  The sum over batches is in float32 at least; 0 where the batches are padding.
  """

  def add(carry, batch):
    batch = fill_padding(batch)

    def summed_loss(params):
      losses = loss_fn(params, batch)
      return jnp.where(batch['mask'] > 0, losses * batch['mask'], 0.0).sum()

    total, count = carry
    total = jax.tree.map(jnp.add, total, jax.grad(summed_loss)(params))
    return total, count + batch['mask'].sum()

  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
    params,
  )
  total, count = loop.fold(add, (zeros, jnp.zeros(())), stacked, examples)
  return jax.tree.map(lambda x: x / jnp.maximum(count, 1.0), total)


def smallest(gradient: Params, fraction: jax.Array | float) -> Params:
  """Marks the entries of each kernel with the smallest absolute gradient.

  Args:
    gradient: any pytree of arrays; a kernel has two axes or more.
    fraction: rho in [0, 1], the share of each kernel; of equal entries those
      that come first.

  Returns:
    booleans shaped like `gradient`, false on all that is not a kernel.
  """

  def mark(d):
    if d.ndim < 2:
      return jnp.zeros(d.shape, bool)
    rank = jnp.argsort(jnp.argsort(jnp.abs(d).ravel()))
    return (rank < jnp.round(fraction * d.size)).reshape(d.shape)

  return jax.tree.map(mark, gradient)


def scale_rest(
  updates: Params, mask: Params, rest_scale: jax.Array | float
) -> Params:
  """Multiplies by `rest_scale` where `mask` is false; types are kept."""
  return jax.tree.map(
    lambda m, u: jnp.where(m, u, (rest_scale * u).astype(u.dtype)),
    mask,
    updates,
  )


def start_anew(
  params: Params,
  forget: Any,
  retain: Any,
  examples: Batch | None,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  init_fn: InitParamsFn,
  fraction: jax.Array | float,
) -> tuple[Params, Params]:
  """Starts the weights with the smallest |d| anew.

  Args:
    params: theta_o; any pytree of arrays.
    forget: one pass over the forget set, stacked as in `training.loop.run`;
      where it is empty nothing starts anew.
    retain: likewise; a dict holds `id` [steps, batch] int.
    examples: what `IndexBatches` point into.
    key: of the draw of retain examples and of the fresh weights.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    init_fn: maps a key to fresh parameters.
    fraction: rho in [0, 1].

  Returns:
    parameters, and booleans shaped like them that say which are fresh.
  """
  draw_key, fresh_key = jax.random.split(key)
  drawn = draw_retain(draw_key, forget, retain)
  difference = jax.tree.map(
    jnp.subtract,
    mean_gradient(params, drawn, examples, loss_fn=loss_fn),
    mean_gradient(params, forget, examples, loss_fn=loss_fn),
  )
  some = _mask(forget).sum() > 0
  mask = smallest(difference, jnp.where(some, fraction, 0.0))
  params = jax.tree.map(
    lambda m, new, old: jnp.where(m, new.astype(old.dtype), old),
    mask,
    init_fn(fresh_key),
    params,
  )
  return params, mask


def msg(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  init_fn: InitParamsFn,
  *,
  fraction: float = 0.3,
  rest_scale: float = 0.1,
) -> UnlearningMethod:
  """MSG as an `UnlearningMethod`; the steps do not read the forget batch.

  `training.loop.prepare` starts weights anew (see `start_anew`); without it the
  rule is fine-tuning.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform.
    init_fn: maps a key to fresh parameters.
    fraction: rho in [0, 1], the share of each kernel that starts anew.
    rest_scale: nu in [0, 1], what is left of the update of other weights.

  Raises:
    ValueError: if an option is outside its bounds.
  """
  base.check_range('fraction', fraction, 0.0, 1.0)
  base.check_range('rest_scale', rest_scale, 0.0, 1.0)
  hyper = {'fraction': fraction, 'rest_scale': rest_scale}

  def method_init(params, key):
    del key
    mask = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in hyper.items()}
    return MsgState(tx.init(params), arrays, mask)

  def prepare_fn(params, state, *sets_and_key):
    if sets_and_key[0] is None:  # The steps need the retain set alone.
      raise ValueError('the method needs forget batches, got None.')
    fraction = state.hyper['fraction']
    params, mask = start_anew(
      params, *sets_and_key, loss_fn=loss_fn, init_fn=init_fn, fraction=fraction
    )
    return params, state._replace(mask=mask)

  def update_fn(params, state, forget, retain, key):
    del forget, key
    retain = fill_padding(retain)
    gradient, metrics = fine_tune_direction(params, retain, loss_fn=loss_fn)
    updates, optimizer = tx.update(gradient, state.optimizer, params)
    updates = scale_rest(updates, state.mask, state.hyper['rest_scale'])
    params = optax.apply_updates(params, updates)
    return params, state._replace(optimizer=optimizer), metrics

  return UnlearningMethod(
    method_init, update_fn, prepare_fn, frozenset({'retain'})
  )
