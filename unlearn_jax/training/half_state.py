"""Keeps what an optimizer keeps in bfloat16: half of the memory.

A number is rounded up or down at random, by how near it lies, so that it is
right on average: rounded to the nearest, a second moment would not move where a
step changes it by less than a part in 256, which in Adam is every step.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax


class HalfState(NamedTuple):
  """The state of the transform inside, and how many steps were taken."""

  inner: optax.OptState
  steps: jax.Array


def in_bfloat16(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Returns the same transform; its arrays of float32 are kept in bfloat16.

  Numbers alone, such as a learning rate, stay as they are.
  """

  def init_fn(params):
    inner = jax.tree.map(_halved, tx.init(params))
    return HalfState(inner, jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None):
    like = jax.eval_shape(tx.init, params if params is not None else updates)
    inner = jax.tree.map(lambda x, s: x.astype(s.dtype), state.inner, like)
    updates, inner = tx.update(updates, inner, params)
    key = jax.random.fold_in(jax.random.key(0), state.steps)
    leaves, tree = jax.tree.flatten(inner)
    kept = [
      round_at_random(jax.random.fold_in(key, i), x) if _is_large(x) else x
      for i, x in enumerate(leaves)
    ]
    return updates, HalfState(jax.tree.unflatten(tree, kept), state.steps + 1)

  return optax.GradientTransformation(init_fn, update_fn)


def round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
  """Rounds finite float32 to a neighbour in bfloat16, right on average."""
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  # Those that bfloat16 does not have overflow into those that it has.
  noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  bits = (bits + noise) & jnp.uint32(0xFFFF0000)
  return lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def _is_large(x):
  return x.ndim > 0 and x.dtype == jnp.float32


def _halved(x):
  return x.astype(jnp.bfloat16) if _is_large(x) else x
