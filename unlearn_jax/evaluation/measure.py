"""The metrics of one run, and what is known of each metric.

A new metric is one value in `measure` and one row in `METRICS`.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import population_mia
from unlearn_jax.evaluation.metric_card import Direction
from unlearn_jax.evaluation.metric_card import Forgotten
from unlearn_jax.evaluation.metric_card import IdealKind
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import SETS
from unlearn_jax.evaluation.outcome import Subsets


@dataclasses.dataclass(frozen=True)
class Metric:
  """What is known of a metric.

  Attributes:
    direction: 'match' retraining, or 'higher' or 'lower' is better.
    examples: the set whose size is the number of examples; None if there is
      none.
    forgotten: the side of retraining on which "too forgotten" lies.
    ideal: where the ideal comes from.
    is_share: a share of the examples, with a binomial error.
    is_utility: its loss is damage.
    version: raised when the definition changes.
  """

  direction: Direction
  examples: str | None = None
  forgotten: Forgotten | None = None
  ideal: IdealKind = 'retrain'
  is_share: bool = False
  is_utility: bool = False
  version: int = 1


def _accuracies() -> dict[str, Metric]:
  forget = Metric('match', 'forget', forgotten='below')
  forgotten_test = Metric('match', 'test_forgotten', forgotten='below')
  rows = {'forget': forget, 'test_forgotten': forgotten_test}
  for name in ('retain', 'validation', 'test'):
    is_utility = name != 'validation'
    rows[name] = Metric('higher', name, is_utility=is_utility)
  shares = {
    f'accuracy.{name}': dataclasses.replace(row, is_share=True)
    for name, row in rows.items()
  }
  # Damage is judged on accuracies.
  f1 = {
    f'macro_f1.{name}': dataclasses.replace(row, is_utility=False)
    for name, row in rows.items()
  }
  return shares | f1


METRICS: dict[str, Metric] = {
  **_accuracies(),
  'mia.paper_loss': Metric('match', 'forget', forgotten='above', is_share=True),
  'collapse.excess': Metric('lower', 'test'),
  'average_gap': Metric('lower', ideal='theory'),
  'cost.run_s': Metric('lower', ideal='none'),
  'cost.compile_s': Metric('lower', ideal='none'),
  'cost.rte': Metric('higher', ideal='none'),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """Metrics of one run that need no other run.

  Attributes:
    values: by name in `METRICS`.
    sizes: examples in each set.
    test_labels: [n] of the classes that the model should know.
    test_predictions: [n].
  """

  values: Mapping[str, float]
  sizes: Mapping[str, int]
  test_labels: np.ndarray
  test_predictions: np.ndarray


def measure(outcome: Outcome, subsets: Subsets) -> Measured:
  """Measures a run.

  Where whole classes are forgotten, validation and test metrics leave their
  examples out, which count apart as `test_forgotten`: that a model has lost
  them is no loss of utility.

  Args:
    outcome: of the run.
    subsets: labels of the same sets.
  """
  labels, logits = {}, {}
  for name in SETS:
    labels[name], logits[name] = subsets.labels[name], outcome.logits[name]
  if subsets.forgotten_classes:
    for name in ('validation', 'test'):
      is_forgotten = np.isin(labels[name], subsets.forgotten_classes)
      parts = {name: ~is_forgotten, f'{name}_forgotten': is_forgotten}
      whole = labels[name], logits[name]
      for part, rows in parts.items():
        labels[part], logits[part] = (array[rows] for array in whole)
    del labels['validation_forgotten']
  predictions = {name: logits[name].argmax(-1) for name in labels}
  values: dict[str, float] = {}
  for name in labels:
    pair = labels[name], predictions[name]
    values[f'accuracy.{name}'] = accuracy.accuracy(*pair)
    values[f'macro_f1.{name}'] = accuracy.macro_f1(*pair)
  values['mia.paper_loss'] = population_mia.paper_loss(
    *(
      population_mia.cross_entropy(logits[name], labels[name])
      for name in ('forget', 'retain', 'test')
    )
  )
  test = labels['test'], predictions['test']
  values['collapse.excess'] = collapse.excess(*test)
  for name in ('run_s', 'compile_s'):
    if name in outcome.cost:
      values[f'cost.{name}'] = outcome.cost[name]
  sizes = {name: len(rows) for name, rows in labels.items()}
  return Measured(values, sizes, *test)
