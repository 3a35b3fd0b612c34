"""Lets any rule change a small part of a network, which alone it ever sees.

The rest is frozen, lies in memory once, and is shared by the student and by
every teacher that began as it did: what a rule copies of its parameters, and
what its optimizer keeps, is as small as the part. A teacher that knows nothing
is a network of its own.

Data: what the rule inside needs.
"""

from collections.abc import Callable, Hashable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.methods.blocks import from_first_row
from unlearn_jax.methods.blocks import last_blocks
from unlearn_jax.methods.blocks import selected
from unlearn_jax.methods.blocks import SelectFn
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models.outputs import identity
from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.training.losses import LogitLoss
from unlearn_jax.types import MethodState, Params, UnlearningMethod

Build = Callable[[Problem, optax.GradientTransformation], UnlearningMethod]
Hyper = Mapping[str, jax.Array]


class Whole(NamedTuple):
  """Stands in the place of a part: a network of its own."""

  params: Any


class PartState(NamedTuple):
  """State of a rule on a part.

  Attributes:
    frozen: what is never changed.
    part: the parameters of the inner rule.
    inner: its state.
    hyper: scalars of the wrapper that one would sweep, as arrays.
  """

  frozen: Any
  part: Any
  inner: MethodState
  hyper: dict[str, jax.Array]


class Part(NamedTuple):
  """How a network is cut in two.

  Attributes:
    split: maps (params, key) to what is frozen and to the part.
    join: maps (frozen, part, hyper) to parameters as they came in.
    view: likewise, to parameters as the network's functions may take them;
      None is `join`.
    blocks: of the part, from input to output; None are those of the network.
  """

  split: Callable[[Params, jax.Array], tuple[Any, Any]]
  join: Callable[[Any, Any, Hyper], Params]
  view: Callable[[Any, Any, Hyper], Params] | None = None
  blocks: tuple[str, ...] | None = None


def of_part(
  build: Build,
  problem: Problem,
  tx: optax.GradientTransformation,
  part: Part,
  *,
  hyper: Mapping[str, float] | None = None,
) -> UnlearningMethod:
  """Restricts a rule to a part.

  The parameters that go in at a step are those that came out of the last: the
  state says what they are made of.

  Args:
    build: makes the inner rule from a `Problem` whose parameters are the part.
    problem: the network.
    tx: any optax transform; it sees the part alone.
    part: how the network is cut.
    hyper: scalars of `join`, as in `base.from_direction`.

  Raises:
    ValueError: if the inner rule refuses its options.
  """
  # What a rule needs does not depend on what is frozen.
  known = build(_problem_of(problem, part, None, {}), tx)

  def inner_of(state):
    return build(_problem_of(problem, part, state.frozen, state.hyper), tx)

  def init_fn(params, key):
    params = jax.tree.map(jnp.copy, params)
    frozen, mine = part.split(params, jax.random.fold_in(key, 1))
    scalars = {k: jnp.asarray(v, jnp.float32) for k, v in (hyper or {}).items()}
    state = PartState(frozen, mine, None, scalars)
    return state._replace(inner=inner_of(state).init(mine, key))

  def finish(state, mine, inner):
    params = part.join(state.frozen, mine, state.hyper)
    return params, state._replace(part=mine, inner=inner)

  def update_fn(params, state, forget, retain, key):
    del params
    mine, inner, metrics = inner_of(state).update(
      state.part, state.inner, forget, retain, key
    )
    return *finish(state, mine, inner), metrics

  def prepare_fn(params, state, forget, retain, examples, key):
    del params
    inner: Any = inner_of(state)
    made = inner.prepare(state.part, state.inner, forget, retain, examples, key)
    return finish(state, *made)

  return UnlearningMethod(
    init_fn,
    update_fn,
    None if known.prepare is None else prepare_fn,
    known.needs,
  )


def _problem_of(problem, part, frozen, hyper):
  """Returns the problem in terms of the part."""
  view = part.view or part.join
  views: dict[Hashable, Any] = {}

  def of_view(fun):
    """Equal functions have one view: so one network stays one."""
    if isinstance(fun, LogitLoss):
      return LogitLoss(of_view(fun.predict_fn), fun.of_logits)
    if isinstance(fun, OutputFn):
      return OutputFn(of_view(fun.outputs_fn), fun.name)
    return views.setdefault(identity(fun), view_of(fun))

  def view_of(fun):
    def wrapped(mine, batch):
      if isinstance(mine, Whole):
        return fun(mine.params, batch)
      return fun(view(jax.lax.stop_gradient(frozen), mine, hyper), batch)

    return wrapped

  def init_fn(key):
    return part.split(problem.init_fn(key), jax.random.fold_in(key, 1))[1]

  def untrained_fn(key):
    return Whole((problem.untrained_fn or problem.init_fn)(key))

  return dataclasses.replace(
    problem,
    loss_fn=of_view(problem.loss_fn),
    predict_fn=of_view(problem.predict_fn),
    embed_fn=problem.embed_fn and of_view(problem.embed_fn),
    init_fn=init_fn,
    untrained_fn=untrained_fn,
    blocks=problem.blocks if part.blocks is None else part.blocks,
    map_embedding_fn=None,  # It folds into parameters that may be frozen.
  )


def last_k(
  build: Build, problem: Problem, tx: optax.GradientTransformation, *, k: int
) -> UnlearningMethod:
  """Restricts a rule to the last k blocks.

  A stack of layers is cut, so the backward pass ends where the part begins.

  Args:
    build: makes the inner rule.
    problem: the network.
    tx: any optax transform; it sees the last k blocks alone.
    k: from 1 to the number of blocks.

  Raises:
    ValueError: if k is out of bounds.
  """
  select = last_blocks(problem.blocks, k)
  part = _rows_part(select, problem.stacks)
  blocks = from_first_row(problem.blocks[-k:])
  return of_part(build, problem, tx, part._replace(blocks=blocks))


def _rows_part(select: SelectFn, stacks: tuple[str, ...]) -> Part:
  """Cuts a network into selected leaves and last rows, and the rest.

  Both sides are whole trees, with None for a leaf that lies on the other side.
  """

  def split(params, key):
    del key
    mask = selected(params, select)

    def side(mine):
      def of(m, leaf):
        if isinstance(m, bool):
          return leaf if m == mine else None
        first = int(np.argmax(m))  # The chosen rows are the last.
        return leaf[first:] if mine else leaf[:first]

      return jax.tree.map(of, mask, params)

    return side(False), side(True)

  def join(frozen, mine, hyper):
    del hyper
    return _merge(frozen, mine, lambda a, b: jnp.concatenate([a, b]))

  def view(frozen, mine, hyper):
    params = join(frozen, mine, hyper)
    for stack in stacks:
      sides = frozen[stack], mine[stack]
      counts = [len(jax.tree.leaves(side)) for side in sides]
      if all(counts):
        params = {**params, stack: sides}
    return params

  return Part(split, join, view)


def _merge(first, second, both):
  """Puts two trees together, of which each leaf is None in one, or in none."""

  def of(a, b):
    if a is None or b is None:
      return b if a is None else a
    return both(a, b)

  return jax.tree.map(of, first, second, is_leaf=lambda x: x is None)
