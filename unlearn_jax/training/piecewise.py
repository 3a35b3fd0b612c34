"""Functions of a batch that work through it in pieces: gradient accumulation.

Rules read losses and logits of examples, so a loss that maps over pieces is all
that it takes: backwards, one piece after another is computed again, and its
gradient added up. Memory for activations is that of one piece; numbers are
those of the whole batch within rounding, for any rule, however it weighs
examples.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

from unlearn_jax.per_example.microbatch import pieces
from unlearn_jax.types import EmbedFn, LossFn, PredictFn

Fn = TypeVar('Fn', LossFn, PredictFn, EmbedFn)


def in_pieces(fun: Fn, microbatch: int | None) -> Fn:
  """Returns the same function, computed piece by piece.

  Args:
    fun: maps (params, batch) to an array [batch, ...] whose rows depend each on
      their own example.
    microbatch: examples a piece, at least 1; None is the function itself.

  Raises:
    ValueError: when called, if `microbatch` is below 1.
  """
  if microbatch is None:
    return fun

  def wrapped(params, batch):
    size = len(jax.tree.leaves(batch)[0])
    if size <= microbatch:
      return fun(params, batch)
    cut, _ = pieces({'mask': jnp.ones(size), **batch}, microbatch)
    one = jax.checkpoint(lambda piece: fun(params, piece), prevent_cse=False)
    found = jax.lax.map(one, cut)
    return found.reshape(-1, *found.shape[2:])[:size]

  return wrapped
