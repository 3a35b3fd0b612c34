"""One number, what it should be, and how it was made.

The reference of nearly every metric is a retrained model, not 0, 1 or chance;
without one there is no verdict.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any, Literal

Direction = Literal['match', 'higher', 'lower']
IdealKind = Literal['retrain', 'theory', 'none']
Verdict = Literal['matches', 'under', 'over', 'damaged', 'no reference']
Forgotten = Literal['below', 'above']

# A model that loses more utility than so many noise floors is damaged.
DAMAGED_FLOORS = 3.0


@dataclasses.dataclass(frozen=True)
class MetricCard:
  """A metric of one method, over all seeds.

  Attributes:
    name: for instance 'accuracy.forget'.
    version: raised when the definition changes.
    value: mean over seeds; nan where it is not defined.
    ci_low: of the 95 percent interval of the value; nan without one.
    ci_high: likewise.
    ci_method: 't' over seeds or models, 'wilson' over examples, 'draws' over
      random draws of models, or 'none'.
    n_seeds: seeds that have a value.
    n_examples: examples a seed, on average; None where it is not a mean.
    values: of each seed, in the order of `provenance['seeds']`.
    ideal: what a perfect unlearner would have; nan if not known.
    ideal_kind: 'retrain', 'theory' or 'none'.
    ideal_ci_low: of the interval of the ideal.
    ideal_ci_high: likewise.
    direction: 'match' the ideal, or 'higher' or 'lower' is better.
    gap: value - ideal.
    noise_floor: 95th percentile of the differences between retrained models.
    over_unlearned: whether the value lies beyond the ideal on the side of "too
      forgotten"; None where the metric has no such side.
    collapsed: whether the model has collapsed, in any seed.
    verdict: see `judge`.
    notes: of undefined values, small samples and the like.
    provenance: method, seeds, hashes of configuration and forget sets, corpus.
  """

  name: str
  version: int
  value: float
  ci_low: float
  ci_high: float
  ci_method: str
  n_seeds: int
  n_examples: float | None
  values: tuple[float, ...]
  ideal: float
  ideal_kind: IdealKind
  ideal_ci_low: float
  ideal_ci_high: float
  direction: Direction
  gap: float
  noise_floor: float
  over_unlearned: bool | None
  collapsed: bool
  verdict: Verdict
  notes: tuple[str, ...] = ()
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def to_json(self) -> str:
    """Returns one line; what is not a number is null."""
    fields = _without_nan(dataclasses.asdict(self))
    return json.dumps(fields, allow_nan=False, ensure_ascii=False)

  @classmethod
  def from_json(cls, line: str) -> 'MetricCard':
    """Reads what `to_json` wrote.

    Raises:
      ValueError: if it is something else.
    """
    fields = json.loads(line)
    names = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(fields, dict) or set(fields) != names:
      raise ValueError('not a metric card: its fields differ.')
    for name in ('value', 'ci_low', 'ci_high', 'ideal', 'gap', 'noise_floor'):
      fields[name] = _or_nan(fields[name])
    for name in ('ideal_ci_low', 'ideal_ci_high'):
      fields[name] = _or_nan(fields[name])
    fields['values'] = tuple(map(_or_nan, fields['values']))
    fields['notes'] = tuple(fields['notes'])
    return cls(**fields)


def _or_nan(value):
  return float('nan') if value is None else float(value)


def _without_nan(value):
  if isinstance(value, dict):
    return {k: _without_nan(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def beyond(
  value: float, ideal: tuple[float, float, float], floor: float
) -> Literal['inside', 'below', 'above']:
  """Says on which side of the ideal a value lies.

  Args:
    value: of the method.
    ideal: the ideal and the bounds of its interval; nan bounds are the ideal.
    floor: how far beyond the interval is still inside; nan is 0.
  """
  middle, low, high = ideal
  low = middle if math.isnan(low) else min(low, middle)
  high = middle if math.isnan(high) else max(high, middle)
  slack = (0.0 if math.isnan(floor) else floor) + 1e-12
  if value < low - slack:
    return 'below'
  return 'above' if value > high + slack else 'inside'


def judge(
  value: float,
  ideal: tuple[float, float, float],
  floor: float,
  *,
  direction: Direction,
  forgotten: Forgotten | None,
  damaged: bool,
) -> tuple[Verdict, bool | None]:
  """Returns the verdict, and whether the value shows over-unlearning.

  | verdict | meaning |
  |---|---|
  | no reference | the value or the ideal is not known |
  | damaged | the model has collapsed or lost utility |
  | matches | inside the ideal's interval, widened by the noise floor |
  | over | beyond it, on the side of "too forgotten" |
  | under | beyond it, on the other side |

  Where a metric has no side of "too forgotten", 'under' is the worse side, and
  the better side matches.

  Args:
    value: of the method.
    ideal: the ideal and the bounds of its interval.
    floor: the noise floor.
    direction: of the metric.
    forgotten: the side on which "too forgotten" lies.
    damaged: whether the model is, by `is_damaged`.
  """
  if math.isnan(value) or math.isnan(ideal[0]):
    return 'no reference', None
  side = beyond(value, ideal, floor)
  over = None if forgotten is None else side == forgotten
  if damaged:
    return 'damaged', over
  if side == 'inside':
    return 'matches', over
  if forgotten is not None:
    return ('over' if over else 'under'), over
  better = {'higher': 'above', 'lower': 'below'}.get(direction)
  return ('matches' if side == better else 'under'), over


def is_damaged(
  collapsed: bool,
  utilities: Mapping[str, tuple[float, tuple[float, float, float], float]],
) -> bool:
  """Says whether a model has collapsed or lost utility.

  Args:
    collapsed: by `collapse.is_collapsed`.
    utilities: of each utility metric (higher is better) the value, the ideal
      with its interval, and the noise floor.
  """
  return collapsed or any(
    beyond(value, ideal, DAMAGED_FLOORS * floor) == 'below'
    for value, ideal, floor in utilities.values()
  )
