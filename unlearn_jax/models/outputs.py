"""What a network gives at once, and functions that are a part of it."""

from collections.abc import Callable, Hashable
import dataclasses
from typing import Any, NamedTuple

import jax

from unlearn_jax.types import Batch, Params


class Outputs(NamedTuple):
  """What a network gives at once.

  Attributes:
    logits: [batch, classes].
    embedding: [batch, d], what the head is given.
  """

  logits: jax.Array
  embedding: jax.Array


def identity(fun: Callable[..., Any]) -> Hashable:
  """Returns what equal functions share: themselves, if they can be hashed."""
  try:
    hash(fun)
  except TypeError:  # An object of arrays; the caller holds it meanwhile.
    return id(fun)
  return fun


@dataclasses.dataclass(frozen=True)
class OutputFn:
  """One of the outputs of a network: a `PredictFn`, or an `EmbedFn`.

  Who needs several, of one batch, sees by it that they come from one pass, see
  `training.losses.at_once`.

  Attributes:
    outputs_fn: maps (params, batch) to what has the output as an attribute.
    name: of the output.
  """

  outputs_fn: Callable[[Params, Batch], Outputs]
  name: str

  def __call__(self, params: Params, batch: Batch) -> jax.Array:
    """Returns the output, [batch, ...]."""
    return getattr(self.outputs_fn(params, batch), self.name)
