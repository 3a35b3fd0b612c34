"""What a search of settings tries: which draws, for how many epochs."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from unlearn_jax.methods import search_space
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.search_space import Draw

_LENGTHS = (0.25, 0.5, 0.75, 1.0)  # Of a run, in those of the preset.
_SCHEDULED = 0.25  # Share of the settings that have a schedule, about.


def visits(preset: Preset) -> tuple[int, ...]:
  """Returns after how many epochs a search looks at a run; () for an edit."""
  epochs = {int(np.ceil(length * preset.epochs)) for length in _LENGTHS}
  return tuple(sorted(epochs - {0}))


def draws(preset: Preset, settings: int) -> int:
  """Returns how many runs try so many settings of a rule without a schedule."""
  constant, scheduled = _split(preset, settings)
  return constant + scheduled


def _split(preset, settings):
  """Returns the draws at a constant rate, and those with a schedule."""
  at = visits(preset)
  if not at or preset.schedule == 'cosine':
    return 0, settings
  constant = max(1, int((1 - _SCHEDULED) * settings) // len(at))
  return constant, max(0, settings - constant * len(at))


@dataclasses.dataclass(frozen=True)
class Plan:
  """The runs of a search.

  Attributes:
    draws: one a run; the first is the preset.
    ends: of each, the one visit that counts; None where every visit does.
  """

  draws: Sequence[Draw]
  ends: Sequence[int | None]


def plan(
  name: str, preset: Preset, settings: int, seed: int, has_schedule: bool
) -> Plan:
  """Returns the runs of a search.

  Args:
    name: of the method.
    preset: its first draw.
    settings: how many to try; of fewer than visits, there are some more.
    seed: of the draws.
    has_schedule: whether the method knows the length of its run, even where its
      learning rate is constant.
  """
  constant, scheduled = _split(preset, settings)
  if has_schedule or not constant:
    found = search_space.draw(name, preset, settings, seed=seed)
    return Plan(found, _ends(preset, len(found), seed))
  found = search_space.draw(name, preset, constant, seed=seed)
  ends: list[int | None] = [None] * constant
  if scheduled:
    _, *others = search_space.draw(
      name, preset, scheduled + 1, schedule='cosine', seed=seed + 1
    )
    found += others
    ends += _ends(preset, scheduled + 1, seed)[1:]
  return Plan(found, ends)


def _ends(preset, count, seed):
  """Returns the visit at which each draw ends: the preset's own, then all."""
  at = visits(preset)
  if not at:
    return [0] * count
  # In an order of their own, since the draws have a pattern too.
  others = np.arange(count - 1) % len(at)
  rng = np.random.default_rng(seed)
  return [at.index(preset.epochs), *rng.permutation(others).tolist()]
