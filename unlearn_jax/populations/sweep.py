"""One method under many settings at once, from one model on the same batches.

Where the members of a population differ in their data, those of a sweep differ
in hyper-parameters alone, so what does not depend on them (a pass over whole
sets, a teacher's answers) is computed once for all.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.populations import program
from unlearn_jax.training import loop
from unlearn_jax.types import Batch, Params, UnlearningMethod

_TOTAL = 'total_steps'
_TOGETHER = 32  # Settings at a time: memory grows with it.


@functools.partial(jax.jit, static_argnames=('method', 'strategy'))
def sweep(
  method: UnlearningMethod,
  params: Params,
  key: jax.Array,
  settings: Mapping[str, jax.Array],
  prepare_sets: tuple[Any, Any],
  forget: Any,
  retain: Any,
  examples: Batch,
  *,
  strategy: program.Strategy = 'auto',
) -> Params:
  """Runs a method under many settings, and returns the models on the way.

  Each is what `loop.init`, `loop.prepare` and `loop.run` make with the same
  key, batches and values.

  Args:
    method: built once, not in a loop.
    params: of the original model; left usable.
    key: of every run.
    settings: arrays [settings] by the name of a scalar in the method's state,
      `total_steps` of a schedule among them: after so many, a run stands still.
    prepare_sets: one pass over the forget and the retain set, as
      `loop.prepare` takes them; (None, None) for a method without `prepare`.
    forget: `IndexBatches` [visits, steps, batch] into `examples`; None for a
      method that needs none.
    retain: likewise; both None returns the model after `prepare` alone.
    examples: arrays [examples, ...].
    strategy: 'map' is one setting after another, 'vmap' some together; 'auto'
      is as `program.resolve` says.

  Returns:
    parameters after each visit, leaves [settings, visits, ...].

  Raises:
    ValueError: if there are no settings, one names no scalar of the state, or
      the sets do not fit the method.
  """
  state = jax.eval_shape(lambda: loop.init(method, params, key))
  if not settings:
    raise ValueError('there must be at least one setting to sweep, got none.')
  for name in settings:
    if not optax.tree_utils.tree_get_all_with_path(state, name):
      raise ValueError(f'the state of the method has no scalar {name!r}.')
  strategy = program.resolve(strategy)

  def one(values):
    state = loop.init(method, params, key)
    state = optax.tree_utils.tree_set(state, **values)
    state = loop.prepare(method, state, *prepare_sets, examples)
    if forget is None and retain is None:
      return jax.tree.map(lambda x: x[None], state.params)

    def visit(state, sets):
      state, _ = loop.run(method, state, *sets, examples)
      return state, state.params

    sets = (forget, retain)
    if _TOTAL in values:
      sets = _up_to(values[_TOTAL], sets)
    return jax.lax.scan(visit, state, sets)[1]

  values = {n: jnp.asarray(v, jnp.float32) for n, v in settings.items()}
  together = _TOGETHER if strategy == 'vmap' else None
  return jax.lax.map(one, values, batch_size=together)


def _up_to(steps, sets):
  """Makes padding of all batches after so many that are not."""
  masks = [side.mask for side in sets if side is not None]
  is_real = sum(mask.sum(-1) for mask in masks) > 0
  so_far = jnp.cumsum(is_real.ravel()).reshape(is_real.shape)
  kept = (so_far <= steps).astype(jnp.float32)[..., None]
  return tuple(side and side._replace(mask=side.mask * kept) for side in sets)
