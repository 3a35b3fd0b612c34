"""Names shared by every folder of the library."""

from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

Params = Any  # A pytree of arrays.
MethodState = Any  # A pytree of arrays.
Array = jax.Array | np.ndarray
Batch = dict[str, Any]  # Arrays [batch, ...] and a float `mask` [batch].
Metrics = dict[str, jax.Array]
Side = Literal['forget', 'retain']
# What a request forgets: single recordings, whole classes of the task, or all
# of a speaker or keyword that is no class of it.
Scope = Literal['sample', 'class', 'group']


class InputError(ValueError):
  """Bad input from the user: a flag, a file or a folder.

  The message is one line that names the flag or file, the value and what is
  allowed. Command-line jobs print it and exit with a code that is not zero.
  """


class LossFn(Protocol):
  """A loss that has not been averaged."""

  def __call__(self, params: Params, batch: Batch) -> jax.Array:
    """Returns one loss per example, shape [batch]."""


class PredictFn(Protocol):
  """A classifier."""

  def __call__(self, params: Params, batch: Batch) -> jax.Array:
    """Returns logits, shape [batch, classes]."""


class EmbedFn(Protocol):
  """What a classifier knows of an example before its last layer."""

  def __call__(self, params: Params, batch: Batch) -> jax.Array:
    """Returns embeddings, shape [batch, d]."""


class MapEmbeddingFn(Protocol):
  """An affine map of the embedding, folded into the parameters."""

  def __call__(
    self, params: Params, matrix: jax.Array, offset: jax.Array
  ) -> Params:
    """Returns parameters with the embedding h @ matrix [d, d] + offset [d]."""


class InitParamsFn(Protocol):
  """A fresh model."""

  def __call__(self, key: jax.Array) -> Params:
    """Returns freshly initialised parameters."""


class AugmentFn(Protocol):
  """Random changes to the inputs of a batch."""

  def __call__(self, key: jax.Array, batch: Batch) -> Batch:
    """Returns a batch of the same shapes; the same key gives the same."""


class InitFn(Protocol):
  """The first half of an `UnlearningMethod`."""

  def __call__(self, params: Params, key: jax.Array) -> MethodState:
    """Returns the state of the method before its first step.

    Whatever the state keeps of `params` (a teacher, an anchor) is copied: the
    loop donates its inputs.
    """


class UpdateFn(Protocol):
  """The second half of an `UnlearningMethod`."""

  def __call__(
    self,
    params: Params,
    state: MethodState,
    forget: Batch | None,
    retain: Batch | None,
    key: jax.Array,
  ) -> tuple[Params, MethodState, Metrics]:
    """Takes one step; a batch that the method does not need may be None."""


class PrepareFn(Protocol):
  """What a rule does with whole sets before its first step."""

  def __call__(
    self,
    params: Params,
    state: MethodState,
    forget: Any,
    retain: Any,
    examples: Batch | None,
    key: jax.Array,
  ) -> tuple[Params, MethodState]:
    """Returns parameters and state after whole passes over the sets.

    A rule that needs no steps makes its whole edit here; others learn a mask
    for the state, or start some weights anew. The sets are stacked batches as
    `training.loop.run` takes them; one that the rule does not need may be None.
    """


class UnlearningMethod(NamedTuple):
  """Pure functions, named after `optax.GradientTransformation`.

  Training is one too: it descends the loss of its retain batches.

  Attributes:
    init: state before the first step.
    update: one step.
    prepare: for rules that look at whole sets once (an edit by importances, a
      saliency mask); None for the others.
    needs: the sets without which it cannot run.
  """

  init: InitFn
  update: UpdateFn
  prepare: PrepareFn | None = None
  needs: frozenset[Side] = frozenset()
