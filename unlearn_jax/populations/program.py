"""The loop of `training.loop` over many models at once.

Members have parameters, keys, batches and results of their own, and share the
method, the examples and one compiled program. A member's result does not
depend on how many others there are, nor on the devices.
"""

from collections.abc import Callable
import functools
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from unlearn_jax.training import loop
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import Batch, Params, PredictFn, UnlearningMethod

Strategy = Literal['auto', 'map', 'vmap']
AXIS = 'population'


def resolve(strategy: Strategy) -> Strategy:
  """Returns 'map' on a CPU and 'vmap' elsewhere for 'auto'.

  One member after another keeps both cores of a CPU as busy as all together
  would, and its working set in the cache; an accelerator wants all together.

  Raises:
    ValueError: if there is no such strategy.
  """
  if strategy == 'auto':
    return 'map' if jax.default_backend() == 'cpu' else 'vmap'
  if strategy not in ('map', 'vmap'):
    raise ValueError(f'strategy must be auto, map or vmap, got {strategy!r}.')
  return strategy


def make_mesh() -> Mesh | None:
  """Returns all devices along one axis, or None if there is one alone."""
  devices = jax.devices()
  return Mesh(np.asarray(devices), (AXIS,)) if len(devices) > 1 else None


def over_members(
  fun: Callable[..., Any], strategy: Strategy, mesh: Mesh | None
) -> Callable[..., Any]:
  """Maps `fun` (member, shared) over the members.

  Args:
    fun: maps (a tree of one member, a tree that all share) to a tree.
    strategy: 'map' is one member after another, 'vmap' all together.
    mesh: shards the members along its axis `population`, whose size must
      divide their number; None is one device.

  Returns:
    a function of (trees with leaves [members, ...], shared).
  """
  strategy = resolve(strategy)

  def many(members, shared):
    one = functools.partial(_swap, fun, shared)
    if strategy == 'map':
      return jax.lax.map(one, members)
    return jax.vmap(one)(members)

  if mesh is None:
    return many
  split, same = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(
    many, mesh=mesh, in_specs=(split, same), out_specs=split, check_vma=False
  )


def _swap(fun, shared, member):
  return fun(member, shared)


@functools.partial(jax.jit, static_argnames=('method', 'strategy', 'mesh'))
def init(
  method: UnlearningMethod,
  params: Params,
  seeds: jax.Array,
  total_steps: jax.Array,
  *,
  strategy: Strategy = 'auto',
  mesh: Mesh | None = None,
) -> loop.RunState:
  """Returns the states of all members before the first step.

  Args:
    method: built once, not in a loop.
    params: leaves [members, ...].
    seeds: [members] uint32, of the keys.
    total_steps: [members], for the schedules of the method.
    strategy: see `over_members`.
    mesh: see `over_members`.
  """

  def one(member, _):
    params, seed, steps = member
    state = loop.init(method, params, jax.random.key(seed))
    return set_total_steps(state, steps)

  return over_members(one, strategy, mesh)((params, seeds, total_steps), ())


@functools.partial(
  jax.jit,
  static_argnames=('fun', 'method', 'strategy', 'mesh'),
  donate_argnames='states',
)
def run(
  fun: Callable[..., Any],
  method: UnlearningMethod,
  states: loop.RunState,
  forget: Any,
  retain: Any,
  examples: Batch,
  *,
  strategy: Strategy = 'auto',
  mesh: Mesh | None = None,
) -> Any:
  """Runs `loop.run` or `loop.prepare` for all members; donates `states`.

  Args:
    fun: `loop.run` or `loop.prepare`.
    method: as in `fun`.
    states: leaves [members, ...], from `init`.
    forget: `IndexBatches` [members, steps, batch] into `examples`; None for a
      method that needs none. Members with fewer steps end in padding.
    retain: likewise.
    examples: arrays [examples, ...], shared.
    strategy: see `over_members`.
    mesh: see `over_members`.

  Returns:
    what `fun` does, leaves [members, ...].

  Raises:
    ValueError: as `fun`.
  """

  def one(member, examples):
    return fun(method, *member, examples)

  return over_members(one, strategy, mesh)((states, forget, retain), examples)


@functools.partial(jax.jit, static_argnames=('predict_fn', 'strategy', 'mesh'))
def _logits(predict_fn, params, rows, examples, *, strategy, mesh):
  def one(params, shared):
    rows, examples = shared

    def of_rows(rows):
      batch = {name: x[rows] for name, x in examples.items()}
      return predict_fn(params, batch)

    return jax.lax.map(of_rows, rows)

  return over_members(one, strategy, mesh)(params, (rows, examples))


def logits(
  predict_fn: PredictFn,
  params: Params,
  examples: Batch,
  *,
  batch_size: int = 250,
  strategy: Strategy = 'auto',
  mesh: Mesh | None = None,
) -> np.ndarray:
  """Returns the logits of all members on all examples.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    params: leaves [members, ...].
    examples: arrays [examples, ...].
    batch_size: examples at a time.
    strategy: see `over_members`.
    mesh: see `over_members`.

  Returns:
    [members, examples, classes] float32.
  """
  size = len(next(iter(examples.values())))
  rows = np.zeros(-(-size // batch_size) * batch_size, np.int32)
  rows[:size] = np.arange(size)
  found = _logits(
    predict_fn,
    params,
    rows.reshape(-1, batch_size),
    examples,
    strategy=strategy,
    mesh=mesh,
  )
  found = gather(found).astype(np.float32)
  return found.reshape(found.shape[0], -1, found.shape[-1])[:, :size]


def shard(tree: Any, mesh: Mesh | None, spec: Any = None) -> Any:
  """Lays a tree out over a mesh; every process passes the same values.

  Args:
    tree: arrays [members, ...], or anything if `spec` is `PartitionSpec()`.
    mesh: None leaves the tree as it is.
    spec: how; None is along the members.
  """
  if mesh is None:
    return tree
  spec = PartitionSpec(AXIS) if spec is None else spec
  return jax.tree.map(
    lambda x: jax.device_put(np.asarray(x), NamedSharding(mesh, spec)), tree
  )


def gather(tree: Any) -> Any:
  """Returns NumPy arrays of all members, in every process."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.tree.map(np.asarray, tree)
