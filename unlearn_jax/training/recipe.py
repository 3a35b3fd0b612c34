"""How an original model is trained, and a retrained one again."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.features.augment import spec_augment
from unlearn_jax.features.augment import time_shift
from unlearn_jax.types import AugmentFn


def warmup_cosine(
  count: jax.Array, total_steps: jax.Array, warmup_fraction: float
) -> jax.Array:
  """Returns the share of the peak rate: linear warm-up, cosine decay to 0.

  Args:
    count: steps done.
    total_steps: of the run; may be traced.
    warmup_fraction: share of the steps in which the rate grows, in [0, 1].
  """
  warmup = jnp.maximum(warmup_fraction * total_steps, 1.0)
  decay = (count - warmup) / jnp.maximum(total_steps - warmup, 1.0)
  cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(decay, 0.0, 1.0)))
  return jnp.minimum((count + 1) / warmup, cosine)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How an original model is trained, and a retrained one again.

  Attributes:
    epochs: passes over the training set.
    batch_size: examples a step.
    learning_rate: the peak, after warm-up.
    warmup_fraction: share of the steps in which the rate grows from 0.
    weight_decay: of AdamW, on kernels alone.
    clip_norm: bound on the norm of the batch gradient.
    max_shift_ms: largest time shift, either way.
    time_mask_ms: largest width of the time mask.
    frequency_mask_bins: largest width of the frequency mask.
    dp_max_norm: bound on the gradient of one example, which makes it DP-SGD,
      see `training.dp_sgd`; None is ordinary training.
    dp_noise_multiplier: standard deviation of the noise on the sum of a batch,
      in units of `dp_max_norm`; 0 without it.
  """

  epochs: int = 60
  batch_size: int = 100
  learning_rate: float = 1e-2
  warmup_fraction: float = 0.1
  weight_decay: float = 1e-2
  clip_norm: float = 1.0
  max_shift_ms: float = 100.0
  time_mask_ms: float = 250.0
  frequency_mask_bins: int = 10
  dp_max_norm: float | None = None
  dp_noise_multiplier: float = 0.0

  def __post_init__(self):
    """Raises ValueError where a value is out of bounds."""
    at_least = {'epochs': 1, 'batch_size': 1, 'learning_rate': 0}
    at_least |= {'weight_decay': 0, 'warmup_fraction': 0}
    at_least |= {'max_shift_ms': 0, 'time_mask_ms': 0, 'frequency_mask_bins': 0}
    at_least |= {'dp_noise_multiplier': 0}
    if self.dp_max_norm is not None:
      at_least |= {'dp_max_norm': 0}
    for name, low in at_least.items():
      value = getattr(self, name)
      if not value >= low:
        raise ValueError(f'{name} must be >= {low}, got {value}.')
    if not self.clip_norm > 0:
      raise ValueError(f'clip_norm must be > 0, got {self.clip_norm}.')
    if self.warmup_fraction > 1:
      raise ValueError(
        f'warmup_fraction must be in [0, 1], got {self.warmup_fraction}.'
      )
    bounded = self.dp_max_norm is not None and self.dp_max_norm < math.inf
    if not bounded and self.dp_noise_multiplier:
      raise ValueError(
        'dp_noise_multiplier must be 0 without a finite dp_max_norm, got '
        f'{self.dp_noise_multiplier}.'
      )

  def steps(self, num_examples: int) -> int:
    """Returns the optimizer steps of a training set of `num_examples`."""
    return self.epochs * -(-num_examples // self.batch_size)

  def optimizer(self) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay, after clipping.

    The number of steps is a hyper-parameter in the state: set it with
    `set_total_steps` before the first step. So one compiled program trains on
    sets of every size.
    """
    return optax.inject_hyperparams(self._transform)(total_steps=1.0)

  def _transform(self, total_steps):
    def schedule(count):
      factor = warmup_cosine(count, total_steps, self.warmup_fraction)
      return self.learning_rate * factor

    adamw = optax.adamw(
      schedule, weight_decay=self.weight_decay, mask=_is_kernel
    )
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)

  def augment_waveform_fn(self, sample_rate_hz: int) -> AugmentFn:
    """Time shift on `waveform` [batch, samples]; there are no bins to mask.

    Recordings of several lengths, which `samples` tells, are left as they are:
    their crops begin at random places, and silence stays behind them.

    Args:
      sample_rate_hz: of the waveform.
    """
    max_shift = round(self.max_shift_ms * sample_rate_hz / 1_000)

    def augment(key, batch):
      if 'samples' in batch:
        return batch
      waveform = time_shift(key, batch['waveform'], max_shift=max_shift)
      return {**batch, 'waveform': waveform}

    return augment

  def augment_fn(self, hop_ms: float) -> AugmentFn:
    """Time shift and masks on `features` [batch, frames, bins].

    Args:
      hop_ms: from one frame to the next.
    """
    max_shift = round(self.max_shift_ms / hop_ms)
    max_time_width = round(self.time_mask_ms / hop_ms)

    def augment(key, batch):
      shift_key, mask_key = jax.random.split(key)
      features = batch['features'].astype(jnp.float32)
      features = time_shift(shift_key, features, max_shift=max_shift, fill=None)
      features = spec_augment(
        mask_key,
        features,
        num_time_masks=1,
        max_time_width=max_time_width,
        num_frequency_masks=1,
        max_frequency_width=self.frequency_mask_bins,
      )
      return {**batch, 'features': features}

    return augment


def set_total_steps(state: Any, steps: int) -> Any:
  """Tells every schedule in a state the steps of the run; there may be none.

  Args:
    state: any pytree with optimizer states, or with `total_steps` by name.
    steps: of the whole run.
  """
  if not optax.tree_utils.tree_get_all_with_path(state, 'total_steps'):
    return state
  value = jnp.asarray(steps, jnp.float32)
  return optax.tree_utils.tree_set(state, total_steps=value)


def _is_kernel(params):
  """Says which leaves are kernels; those of equal layers may be stacked."""

  def of(path, leaf):
    name = getattr(path[-1], 'key', None) if path else None
    return leaf.ndim > 1 and name not in ('bias', 'scale')

  return jax.tree.map_with_path(of, params)
