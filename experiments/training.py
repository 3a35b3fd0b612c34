"""The settings of an original model, whatever flags they come from."""

import dataclasses
from typing import NamedTuple

import optax

from experiments import pretrained_flags
from unlearn_jax.models import registry as models
from unlearn_jax.training import half_state
from unlearn_jax.training import losses
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.types import InputError, LossFn, PredictFn


class TaskDefaults(NamedTuple):
  """What differs between tasks.

  Attributes:
    label: what the classes are: 'keyword' or 'speaker'.
    dataset: where the flag is not given.
    model, head, learning_rate: likewise; they go together.
  """

  label: str
  dataset: str
  model: str
  head: str
  learning_rate: float


TASKS = {
  'kws': TaskDefaults(
    'keyword',
    'espeak_commands',
    'tc_resnet8',
    'softmax',
    Recipe().learning_rate,
  ),
  'sid': TaskDefaults(
    'speaker', 'espeak_commands/speakers', 'ecapa_tdnn_small', 'aam', 3e-3
  ),
}


@dataclasses.dataclass(frozen=True)
class Training:
  """The settings of an original model: recorded with it, and with a run.

  Attributes are the flags of the same names.
  """

  task: str
  dataset: str
  split: str
  model: str
  head: str
  margin: float
  epochs: int
  batch_size: int
  learning_rate: float
  weight_decay: float
  max_shift_ms: float
  time_mask_ms: float
  frequency_mask_bins: int
  crop_ms: float
  score_crops: int
  frames: str
  dp_max_norm: float | None
  dp_noise_multiplier: float
  encoder: str | None = None
  compute_dtype: str = 'float32'
  remat: bool = False
  microbatch: int | None = None
  moments: str = 'float32'
  length_buckets: bool = False

  def recipe(self) -> Recipe:
    """Returns the training recipe."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    values = dataclasses.asdict(self)
    try:
      return Recipe(**{k: v for k, v in values.items() if k in names})
    except ValueError as error:  # A nan passes the bounds of a flag.
      raise InputError(f'--{error}') from error

  @property
  def rate_scale(self) -> float:
    """Returns by what learning rates of presets are to be multiplied.

    They were found on networks that are trained at the rate of `Recipe`; what
    is trained at a hundredth of it unlearns at a hundredth too. That is where
    UnSLU-BENCH (Koudounas et al., Interspeech 2025) found the best rates of
    pretrained encoders: 1e-5 to 1e-4 for fine-tuning, 1e-6 to 5e-6 for ascent.
    """
    if not pretrained_flags.is_named(self.model):
      return 1.0
    return self.learning_rate / Recipe().learning_rate

  def optimizer(
    self, tx: optax.GradientTransformation
  ) -> optax.GradientTransformation:
    """Returns an optimizer that keeps its moments as asked."""
    return half_state.in_bfloat16(tx) if self.moments == 'bfloat16' else tx

  def unfit(self) -> tuple[str, ...]:
    """Returns the methods that the network cannot run."""
    if self.head != 'aam':
      return ()
    network = models.NETWORKS.get(self.model)
    no_layer = network is not None and not network.embedding
    return ('boundary_expand', *['subspace_projection'] * no_layer)

  def loss_fn(self, predict_fn: PredictFn, logit_scale: float) -> LossFn:
    """Returns the loss of the head: with its margin, if it has one."""
    if self.head == 'aam':
      return losses.additive_angular_margin(
        predict_fn, scale=logit_scale, margin=self.margin
      )
    return losses.cross_entropy(predict_fn)
