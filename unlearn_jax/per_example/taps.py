r"""Gradients of single examples out of one backward pass of the whole batch.

A layer that multiplies a weight with inputs knows the gradient of each example
from its inputs and the gradient of its outputs, before the sum over examples is
taken. It says so by computing through `apply`. In an ordinary pass that changes
nothing. In a tapped pass the backward step also hands on what a `Reduce` makes
of the gradients of that layer: all of them, the sum of their squares, their
norms. So no batch of backward passes is needed, and what is not wanted is never
made.

Whether a function is fit for a tapped pass is found out, not declared: each
leaf of the parameters must go through `apply` once, and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import contextvars
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.types import Batch, Params

Transform = Callable[[jax.Array], jax.Array]  # Elementwise, 0 to 0.


class Op:
  """What a layer does with one weight; batches stand on the last axis of x."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the outputs."""
    raise NotImplementedError

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns the gradient of every example, [batch, *weight.shape].

    Args:
      weight: a leaf of the parameters.
      x: inputs.
      cotangent: of the outputs.
    """
    raise NotImplementedError

  def transformed_sum(
    self,
    transform: Transform,
    weight: jax.Array,
    x: jax.Array,
    cotangent: jax.Array,
  ) -> jax.Array:
    """Returns the sum over examples of `transform` of their gradients."""
    return sum_examples(transform, self.grads(weight, x, cotangent))

  def squared_norms(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns the squared L2 norms of the gradients, [batch]."""
    grads = self.grads(weight, x, cotangent)
    return jnp.square(grads.reshape(grads.shape[0], -1)).sum(1)


def sum_examples(transform: Transform, grads: jax.Array) -> jax.Array:
  """Returns the sum of `transform` of [batch, ...] over the batch.

  A loop: XLA on CPU reduces the leading axis an order of magnitude slower.
  """

  def add(i, total):
    return total + transform(grads[i])

  zeros = jnp.zeros(grads.shape[1:], grads.dtype)
  return jax.lax.fori_loop(0, grads.shape[0], add, zeros)


class Reduce(NamedTuple):
  """What is made of the gradients of one weight.

  Attributes:
    like: maps a weight and the batch size to the shape and type of the result.
    of: maps (op, weight, x, cotangent) to it.
  """

  like: Callable[[jax.Array, int], jax.ShapeDtypeStruct]
  of: Callable[[Op, jax.Array, jax.Array, jax.Array], jax.Array]


class _Pass(NamedTuple):
  """A tapped pass: by the identity of a leaf, its value and its tap."""

  taps: dict[int, tuple[jax.Array, jax.Array]]
  reduce: Reduce
  seen: list[int]


_ACTIVE: contextvars.ContextVar[_Pass | None] = contextvars.ContextVar(
  'tapped_pass', default=None
)


def active() -> bool:
  """Says whether a tapped pass is being traced."""
  return _ACTIVE.get() is not None


def apply(op: Op, weight: jax.Array, x: jax.Array) -> jax.Array:
  """Returns `op(weight, x)`; in a tapped pass its gradients are handed on.

  Args:
    op: the layer's arithmetic.
    weight: a leaf of the parameters, as it was passed in.
    x: inputs.
  """
  current = _ACTIVE.get()
  if current is None or id(weight) not in current.taps:
    return op(weight, x)
  current.seen.append(id(weight))
  value, tap = current.taps[id(weight)]
  reduce = current.reduce

  @jax.custom_vjp
  def tapped(tap, value, x):
    del tap
    return op(value, x)

  def forward(tap, value, x):
    del tap
    y, pull = jax.vjp(lambda x: op(value, x), x)
    return y, (pull, value, x)

  def backward(residuals, cotangent):
    pull, value, x = residuals
    made = reduce.of(op, value, _after(cotangent, x), cotangent)
    return made, None, *pull(_after(made, cotangent))

  tapped.defvjp(forward, backward)
  return tapped(tap, value, x)


def _after(first, x):
  """Returns x, which XLA now computes after `first`.

  So the layers take turns, and only one has its gradients in memory. XLA on CPU
  ignores an `optimization_barrier` when it allocates, but not a sum with a
  number that only we know to be zero.
  """
  number = first.ravel()[0].astype(x.dtype)
  return x + jnp.where(number < -jnp.inf, number, jnp.zeros((), x.dtype))


@contextlib.contextmanager
def _tapped(current: _Pass) -> Iterator[None]:
  token = _ACTIVE.set(current)
  try:
    yield
  finally:
    _ACTIVE.reset(token)


def is_tappable(
  fun: Callable[[Params, Batch], jax.Array],
  params: Params,
  batch: Batch,
  reduce: Reduce,
) -> bool:
  """Says whether every leaf goes through `apply` once and nowhere else."""
  leaves, tree = jax.tree.flatten(params)

  def probe(stand_ins):
    taps = {
      id(s): (leaf, jnp.zeros((), leaf.dtype))
      for s, leaf in zip(stand_ins, leaves, strict=True)
    }
    current = _Pass(taps, reduce, seen)
    with _tapped(current):
      return fun(jax.tree.unflatten(tree, stand_ins), batch)

  seen: list[int] = []
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
  jaxpr = jax.make_jaxpr(probe)(shapes).jaxpr
  used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
  used |= {id(v) for v in jaxpr.outvars}
  elsewhere = any(id(v) in used for v in jaxpr.invars)
  return len(seen) == len(set(seen)) == len(leaves) and not elsewhere


def vjp(
  fun: Callable[[Params, Batch], jax.Array],
  params: Params,
  batch: Batch,
  reduce: Reduce,
) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
  """Runs a tapped pass; `is_tappable` must hold.

  Args:
    fun: maps (params, batch) to [batch, ...].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    reduce: what to make of the gradients.

  Returns:
    the value of `fun`, and a function from its cotangent to a tree like
    `params` of what `reduce` makes of each leaf's gradients.
  """
  leaves, tree = jax.tree.flatten(params)
  leaves = [jnp.asarray(leaf) for leaf in leaves]
  size = batch['mask'].shape[0]
  zeros = [
    jnp.zeros(like.shape, like.dtype)
    for like in (reduce.like(leaf, size) for leaf in leaves)
  ]

  def tapped_fun(taps: Sequence[Any]):
    by_id = {
      id(leaf): (leaf, tap) for leaf, tap in zip(leaves, taps, strict=True)
    }
    current = _Pass(by_id, reduce, [])
    with _tapped(current):
      value = fun(jax.tree.unflatten(tree, leaves), batch)
    if len(current.seen) != len(leaves):  # Its gradients would be silently 0.
      raise RuntimeError('a weight did not go through `taps.apply`.')
    return value

  value, pull = jax.vjp(tapped_fun, zeros)
  return value, lambda cotangent: jax.tree.unflatten(tree, pull(cotangent)[0])
