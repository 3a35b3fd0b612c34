"""What a row of the registry of methods says."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Literal

import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.methods import schedule
from unlearn_jax.methods.preset import Preset
from unlearn_jax.types import (
  EmbedFn,
  InitParamsFn,
  LossFn,
  MapEmbeddingFn,
  PredictFn,
  Scope,
  Side,
  UnlearningMethod,
)

# A stream of random numbers apart from those of the epochs.
_SUBSET = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Problem:
  """All that a method may know of a model.

  Attributes:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    init_fn: maps a key to fresh parameters.
    input_name: of the network's input in a batch.
    blocks: path prefixes of the parameters, such as 'encoder/layer_3', in the
      order from input to output; the last is the linear head.
    embed_fn: maps (params, batch) to embeddings [batch, d]; None where the
      model has none, and rules on embeddings cannot run.
    embedding_size: d.
    map_embedding_fn: folds an affine map of the embedding into the parameters.
    untrained_fn: maps a key to a model that knows nothing, for teachers; None
      is `init_fn`. Where methods see a part of a network, it is the whole.
    stacks: top keys of the parameters under which equal layers lie stacked;
      the functions also take a tuple of such stacks there.
    is_linear: says of a path whether it is the kernel of a linear layer beside
      which the functions take factors, `low_rank` (a, b): the layer adds
      (x a^T) b^T, and the sum of the kernels need not be made. None is of no
      path.
  """

  loss_fn: LossFn
  predict_fn: PredictFn
  init_fn: InitParamsFn
  input_name: str = 'features'
  blocks: tuple[str, ...] = ()
  embed_fn: EmbedFn | None = None
  embedding_size: int = 0
  map_embedding_fn: MapEmbeddingFn | None = None
  untrained_fn: InitParamsFn | None = None
  stacks: tuple[str, ...] = ()
  is_linear: Callable[[str], bool] | None = None


@dataclasses.dataclass(frozen=True)
class MethodSpec:
  """A row of the registry.

  Attributes:
    build: maps (problem, tx, **options) to the method.
    needs: the sets it looks at; it is given None for the other.
    preset: what works on the corpora here; None for retraining, which has the
      recipe of the original model.
    summary: one line for tables.
    class_preset: what works for requests that remove whole classes, where a
      retrained model never says the class again; None is `preset`.
    group_preset: what works for all of a speaker or keyword that is no class of
      the task; None is `preset`.
    layout: 'joint' or 'alternate', see `methods.schedule`.
    rewinds: whether the experiment picks the epoch by `rewind.rewind`.
    for_classes: whether the rule makes sense only for requests that remove
      whole classes.
    reads_losses: whether the rule uses `Problem.loss_fn`.
    when: one line of advice, for tables.
    from_unheard: maps options, the logits [n, classes] and labels [n] of
      recordings that the original model was trained on, and likewise of
      recordings by models that never heard them, to options of the rule; None
      reads none.
  """

  build: Callable[..., UnlearningMethod]
  needs: frozenset[Side]
  preset: Preset | None
  summary: str
  class_preset: Preset | None = None
  group_preset: Preset | None = None
  layout: Literal['joint', 'alternate'] = 'joint'
  rewinds: bool = False
  for_classes: bool = False
  reads_losses: bool = True
  when: str = ''
  from_unheard: Callable[..., dict[str, float]] | None = None

  def preset_for(self, scope: Scope) -> Preset | None:
    """Returns the preset for what a request forgets; None is retraining."""
    special = {'class': self.class_preset, 'group': self.group_preset}
    return special.get(scope) or self.preset

  def epoch_batches(
    self,
    preset: Preset,
    forget: np.ndarray,
    retain: np.ndarray,
    *,
    epoch: int,
    seed: Sequence[int],
  ) -> tuple[IndexBatches | None, IndexBatches | None]:
    """Lays out one epoch; None for a set that the method does not need.

    Args:
      preset: batch sizes and shares.
      forget: [n] rows of the forget set.
      retain: [n] rows of the retain set.
      epoch: from 0; with `seed` it decides the order.
      seed: of the run.
    """
    if preset.retain_fraction < 1:
      rng = np.random.default_rng([*seed, _SUBSET])
      count = max(1, round(preset.retain_fraction * len(retain)))
      retain = rng.choice(retain, count, replace=False)
    if preset.forget_epochs is not None and epoch >= preset.forget_epochs:
      forget = forget[:0]
    lay_out = getattr(schedule, self.layout)
    return lay_out(
      forget if 'forget' in self.needs else None,
      retain if 'retain' in self.needs else None,
      forget_batch=preset.forget_batch,
      retain_batch=preset.retain_batch,
      rng=np.random.default_rng([*seed, epoch]),
    )

  def prepare_batches(
    self, preset: Preset, forget: np.ndarray, retain: np.ndarray
  ) -> tuple[IndexBatches | None, IndexBatches | None]:
    """Lays out one pass over each set; None for one that is not needed.

    Args:
      preset: batch sizes.
      forget: [n] rows of the forget set.
      retain: [n] rows of the retain set.
    """
    return (
      batches.one_pass(forget, preset.forget_batch)
      if 'forget' in self.needs
      else None,
      batches.one_pass(retain, preset.retain_batch)
      if 'retain' in self.needs
      else None,
    )
