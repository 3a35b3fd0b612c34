"""Functions of a batch that work through it in pieces: gradient accumulation.

Rules read losses and logits of examples, so a loss that maps over pieces is all
that it takes: backwards, one piece after another is computed again, and its
gradient added up. Memory for activations is that of one piece; numbers are
those of the whole batch within rounding, for any rule, however it weighs
examples.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.per_example.microbatch import pieces
from unlearn_jax.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class _InPieces:
  """Equal where function and size are: so it is known to be one network."""

  fun: Any
  microbatch: int

  def __call__(self, params: Params, batch: Batch) -> Any:
    size = len(jax.tree.leaves(batch)[0])
    if size <= self.microbatch:
      return self.fun(params, batch)
    cut, _ = pieces({'mask': jnp.ones(size), **batch}, self.microbatch)
    one = jax.checkpoint(
      lambda piece: self.fun(params, piece), prevent_cse=False
    )
    return jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:])[:size], jax.lax.map(one, cut)
    )


def in_pieces(fun: Any, microbatch: int | None) -> Any:
  """Returns the same function, computed piece by piece.

  Args:
    fun: maps (params, batch) to an array [batch, ...] whose rows depend each on
      their own example, or to a tuple of them.
    microbatch: examples a piece, at least 1; None is the function itself.

  Raises:
    ValueError: when called, if `microbatch` is below 1.
  """
  if microbatch is None:
    return fun
  if isinstance(fun, OutputFn):
    return OutputFn(in_pieces(fun.outputs_fn, microbatch), fun.name)
  return _InPieces(fun, microbatch)
