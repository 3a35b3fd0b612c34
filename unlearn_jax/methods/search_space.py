"""Settings that a search may try: ranges of each method, and draws from them.

A range stands here for the learning rate and for each scalar of a rule that
lives in its state, so that one compiled program tries them all side by side.
What decides a shape (batch sizes, `k`, a mode) stays as the preset has it.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import scipy.stats

from unlearn_jax.methods.preset import Algorithm
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.preset import Schedule
from unlearn_jax.methods.wrappers import WRAPPERS


@dataclasses.dataclass(frozen=True)
class Range:
  """Values from `low` to `high`, both > 0 where the scale is logarithmic."""

  low: float
  high: float
  log: bool = True

  def __post_init__(self):
    """Raises ValueError where the bounds do not fit."""
    if not self.low < self.high or (self.log and not self.low > 0):
      raise ValueError(
        f'a range must have low < high, and low > 0 where it is logarithmic, '
        f'got {self.low} and {self.high}.'
      )

  def at(self, share: float) -> float:
    """Returns the value at a share in [0, 1] of the way."""
    if self.log:
      return float(self.low * (self.high / self.low) ** share)
    return float(self.low + (self.high - self.low) * share)


_RATE = Range(1e-5, 1e-2)  # Of rules that act against the forget set.
_FINE_TUNE = Range(1e-3, 1e-1)
_RETAIN = Range(0.5, 10.0)

RANGES: dict[str, dict[str, Range]] = {
  'fine_tune': {'learning_rate': _FINE_TUNE},
  'l1_sparse': {'learning_rate': _FINE_TUNE, 'penalty': Range(1e-5, 1e-3)},
  'cf_k': {'learning_rate': _FINE_TUNE},
  'eu_k': {'learning_rate': _FINE_TUNE},
  'gradient_ascent': {
    'learning_rate': _RATE,
    'max_loss': Range(1.0, 10.0),
  },
  'noisy_ascent': {
    'learning_rate': _RATE,
    'max_norm': Range(0.1, 3.0),
    'noise': Range(0.01, 1.0),
    'retain_weight': _RETAIN,
  },
  'npo': {
    'learning_rate': _RATE,
    'beta': Range(0.05, 2.0),
    'retain_weight': _RETAIN,
  },
  'delete': {'learning_rate': _RATE},
  'boundary_shrink': {'learning_rate': _RATE, 'epsilon': Range(0.03, 1.0)},
  'boundary_expand': {'learning_rate': _RATE},
  'neg_grad_plus': {
    'learning_rate': _RATE,
    'retain_weight': Range(0.7, 0.995, log=False),
  },
  'random_label': {'learning_rate': _RATE, 'retain_weight': _RETAIN},
  'bad_teacher': {'learning_rate': _RATE, 'temperature': Range(0.5, 4.0)},
  'scrub': {
    'learning_rate': Range(1e-4, 1e-2),
    'loss_weight': Range(0.1, 10.0),
    'distill_weight': Range(0.1, 10.0),
    'temperature': Range(1.0, 8.0),
  },
  # Slope, offset and spread are read off confidences, not searched.
  'confidence_matching': {
    'learning_rate': Range(3e-4, 3e-2),
    'loss_weight': Range(1.0, 30.0),
    'distill_weight': Range(1.0, 50.0),
  },
  'msg': {
    'learning_rate': _FINE_TUNE,
    'fraction': Range(0.05, 0.7),
    'rest_scale': Range(0.1, 1.0),
  },
  'unsir': {
    'learning_rate': _FINE_TUNE,
    'noise_decay': Range(0.01, 1.0),
    'repair_scale': Range(0.03, 1.0),
  },
  'ssd': {'threshold': Range(1.0, 100.0), 'dampening': Range(0.05, 1.0)},
  'lfssd': {'threshold': Range(0.5, 50.0), 'dampening': Range(0.05, 1.0)},
  'fisher_forgetting': {
    'noise': Range(1e-9, 1e-5),
    'max_std': Range(3e-3, 0.3),
  },
  'influence': {
    'step': Range(0.1, 50.0),
    'damping': Range(1e-3, 10.0),
    'max_step_norm': Range(0.1, 10.0),
  },
  'embedding_scrub': {
    'learning_rate': Range(1e-4, 1e-2),
    'retain_weight': Range(0.1, 10.0),
    'output_weight': Range(0.0, 3.0, log=False),
  },
  'subspace_projection': {
    'strength': Range(0.3, 1.0, log=False),
    'ridge': Range(1e-5, 1.0),
  },
  'adversarial_probe': {
    'learning_rate': _RATE,
    'reversal': Range(0.1, 10.0),
  },
}
RANGES['scrub_rewind'] = RANGES['scrub']
RANGES['salun'] = RANGES['random_label']

# A step of momentum, whose direction has norm 1 at most, is this much shorter
# than one of AdamW on networks of some 100,000 parameters.
_SGD_RATE = 30.0
_SGD_SHARE = 0.25  # Of the draws.


def ranges(method: str) -> Mapping[str, Range]:
  """Returns the ranges of a method, or of `wrapper:method`.

  Raises:
    KeyError: if there are none.
  """
  outer, colon, inner = method.partition(':')
  return ranges(inner) if colon and outer in WRAPPERS else RANGES[method]


def as_variables(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns options of which those with a range are arrays, not numbers.

  So that a rule leaves none out of its program: a number of 0 may leave out a
  term that a search has weights for.

  Raises:
    KeyError: if the method has no ranges.
  """
  space = ranges(method)
  return {
    name: jnp.float32(value) if name in space else value
    for name, value in options.items()
  }


@dataclasses.dataclass(frozen=True)
class Draw:
  """One point of a search space.

  Attributes:
    values: of each range, by name.
    algorithm: of the optimizer.
    schedule: of the learning rate.
  """

  values: Mapping[str, float]
  algorithm: Algorithm
  schedule: Schedule

  def applied(self, preset: Preset, epochs: int) -> Preset:
    """Returns the preset with these values and so many epochs."""
    options = dict(preset.options)
    options |= {k: v for k, v in self.values.items() if k != 'learning_rate'}
    rate = self.values.get('learning_rate', preset.learning_rate)
    return dataclasses.replace(
      preset,
      epochs=epochs,
      learning_rate=rate,
      algorithm=self.algorithm,
      schedule=self.schedule,
      options=options,
    )


def draw(
  method: str,
  preset: Preset,
  count: int,
  *,
  schedule: Schedule | None = None,
  seed: int,
) -> list[Draw]:
  """Draws settings: first the preset's own, then points that fill the space.

  The points are a scrambled Halton sequence, which leaves fewer gaps than
  independent draws do. A quarter takes steps of SGD with momentum, at a larger
  learning rate, unless the rule takes no steps.

  Args:
    method: with ranges.
    preset: of the method, for the kind of request at hand.
    count: of draws, at least 1.
    schedule: of all of them; None is the preset's.
    seed: of the points.

  Raises:
    ValueError: if `count` is less than 1.
  """
  if count < 1:
    raise ValueError(f'count must be >= 1, got {count}.')
  space = ranges(method)
  own = {
    name: preset.learning_rate
    if name == 'learning_rate'
    else float(preset.options[name])
    for name in space
  }
  schedule = schedule or preset.schedule
  draws = [Draw(own, preset.algorithm, schedule)]
  # One more dimension chooses the algorithm.
  sampler = scipy.stats.qmc.Halton(len(space) + 1, rng=seed)
  for which, *point in sampler.random(count - 1):
    values = {n: space[n].at(x) for n, x in zip(space, point, strict=True)}
    algorithm: Algorithm = 'adamw'
    if 'learning_rate' in values:
      values['learning_rate'] *= preset.rate_scale
    if 'learning_rate' in values and which < _SGD_SHARE:
      values['learning_rate'] *= _SGD_RATE
      algorithm = 'sgd'
    draws.append(Draw(values, algorithm, schedule))
  return draws
