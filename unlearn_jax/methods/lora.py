r"""LoRA: let any gradient rule change a network by products of low rank alone.

.. math::
  W = W_o + \tfrac{a}{r} B A, \quad A \in R^{r \times in} \sim N(0, 1/r),
  \quad B = 0 \in R^{out \times r}

A wrapper: the parameters of the rule inside are the network as it was, which
stays so bit for bit, and A and B of each kernel, which alone move. Data: what
that rule needs. A kernel [..., in, out], a convolution's for instance, counts
as one of [... * in, out].

References:
  Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.blocks import path_of
from unlearn_jax.methods.blocks import SelectFn
from unlearn_jax.methods.spec import Problem
from unlearn_jax.types import MethodState, Params, UnlearningMethod


class Factors(NamedTuple):
  """A [rank, in] and B [out, rank] of one kernel, in float32 at least."""

  a: jax.Array
  b: jax.Array


class Base(NamedTuple):
  """What stays: the network as it was, and a of the formula as an array."""

  params: Any
  lora_scale: Any


class Adapted(NamedTuple):
  """What the inner rule takes for the parameters.

  Attributes:
    base: a `Base`, which no rule moves.
    adapters: `Factors` by the paths of the kernels.
  """

  base: Any
  adapters: Any


class LoraState(NamedTuple):
  """The parameters of the inner rule, and its state."""

  adapted: Adapted
  inner: MethodState


def init_adapters(
  params: Params, key: jax.Array, rank: int, select: SelectFn | None = None
) -> dict[str, Factors]:
  """Returns factors whose product is 0 for every kernel that is selected.

  Args:
    params: any pytree of arrays; leaves with two axes or more are kernels.
    key: of the draw of A.
    rank: r, at least 1.
    select: says of a path whether its kernel is adapted; None is all.

  Raises:
    ValueError: if no kernel is selected.
  """
  adapters: dict[str, Factors] = {}
  for path, leaf in jax.tree.leaves_with_path(params):
    name = path_of(path)
    if leaf.ndim < 2 or not (select is None or select(name)):
      continue
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    inputs, outputs = math.prod(leaf.shape[:-1]), leaf.shape[-1]
    draw_key = jax.random.fold_in(key, len(adapters))
    draw = jax.random.normal(draw_key, (rank, inputs), dtype)
    zeros = jnp.zeros((outputs, rank), dtype)
    adapters[name] = Factors(draw / math.sqrt(rank), zeros)
  if not adapters:
    raise ValueError('select must name kernels, and names none of them.')
  return adapters


def merge(adapted: Adapted) -> Params:
  """Folds the products into the kernels; types and shapes stay."""

  def add(path, leaf):
    factors = adapted.adapters.get(path_of(path))
    if factors is None:
      return leaf
    factor = adapted.base.lora_scale / len(factors.a)
    change = factor * (factors.b @ factors.a)
    change = change.transpose().reshape(leaf.shape)
    return (leaf + change).astype(leaf.dtype)

  return jax.tree.map_with_path(add, adapted.base.params)


def lora(
  build: Callable[[Problem, optax.GradientTransformation], UnlearningMethod],
  problem: Problem,
  tx: optax.GradientTransformation,
  *,
  rank: int = 8,
  scale: float = 16.0,
  select: SelectFn | None = None,
) -> UnlearningMethod:
  """Restricts a gradient rule to changes of low rank.

  The parameters that go in at a step are those that came out of the last: the
  state says what they are made of.

  Args:
    build: makes the inner rule. Its `Problem` has `Adapted` for parameters,
      and for blocks the adapters of each block.
    problem: the network.
    tx: any optax transform; it sees the adapters alone.
    rank: r, at least 1.
    scale: a, at least 0; 0 is the identity.
    select: says of a path, such as 'Dense_0/kernel', whether that kernel is
      adapted; None is all leaves with two axes or more.

  Raises:
    ValueError: if an option is outside its bounds; in `init` if no kernel is
      selected.
  """
  base.check_range('rank', rank, 1)
  base.check_range('scale', scale, 0.0)

  def adapt(params, key):
    adapters = init_adapters(params, key, rank, select)
    return Adapted(Base(params, jnp.asarray(scale, jnp.float32)), adapters)

  inner = build(
    _adapted_problem(problem, adapt),
    optax.partition(
      {'still': optax.set_to_zero(), 'moving': tx},
      Adapted('still', 'moving'),
    ),
  )

  def init_fn(params, key):
    adapted = adapt(jax.tree.map(jnp.copy, params), jax.random.fold_in(key, 1))
    return LoraState(adapted, inner.init(adapted, key))

  def update_fn(params, state, forget, retain, key):
    del params
    moved, inner_state, metrics = inner.update(
      state.adapted, state.inner, forget, retain, key
    )
    return *_finish(state.adapted, moved, inner_state), metrics

  return UnlearningMethod(init_fn, update_fn, _prepare_of(inner), inner.needs)


def _finish(old, new, inner_state):
  """Takes of what the inner rule made the adapters alone."""
  adapted = old._replace(adapters=new.adapters)
  return merge(adapted), LoraState(adapted, inner_state)


def _prepare_of(inner):
  if inner.prepare is None:
    return None

  def prepare_fn(params, state, forget, retain, examples, key):
    del params
    made = inner.prepare(
      state.adapted, state.inner, forget, retain, examples, key
    )
    return _finish(state.adapted, *made)

  return prepare_fn


def _adapted_problem(problem, adapt):
  """Returns the problem in terms of `Adapted`, no gradient of the base."""

  def of_merged(fun):
    def wrapped(adapted, batch):
      base = jax.lax.stop_gradient(adapted.base)
      return fun(merge(adapted._replace(base=base)), batch)

    return wrapped

  def init_fn(key):
    return adapt(problem.init_fn(key), jax.random.fold_in(key, 1))

  return dataclasses.replace(
    problem,
    loss_fn=of_merged(problem.loss_fn),
    predict_fn=of_merged(problem.predict_fn),
    init_fn=init_fn,
    blocks=tuple(f'adapters/{block}' for block in problem.blocks),
  )
