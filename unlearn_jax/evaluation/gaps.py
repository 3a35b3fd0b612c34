"""Distances to a retrained model that join several metrics in one number."""

from collections.abc import Mapping

import numpy as np

AVERAGED = (
  'accuracy.forget',
  'accuracy.retain',
  'accuracy.test',
  'mia.loss_threshold.auc',
)


def average_gap(
  unlearned: Mapping[str, float], retrained: Mapping[str, float]
) -> float:
  """Mean absolute difference over forget, retain and test accuracy and attack.

  The attack is that by loss against matched non-members. The attack of the
  paper would drown the rest: between two retrained models it differs by up to
  half, since its threshold lies among losses that are all near 0.

  In [0, 1]; 0 is ideal, and two retrained models differ too: their noise floor
  says by how much. nan where a value is.

  Args:
    unlearned: the values named in `AVERAGED`.
    retrained: the same of a retrained model.
  """
  gaps = [abs(unlearned[name] - retrained[name]) for name in AVERAGED]
  return float(np.mean(gaps))


def tug_of_war(
  unlearned: Mapping[str, float], retrained: Mapping[str, float]
) -> float:
  """ToW: product of one minus the gap on forget, retain and test accuracy.

  In [0, 1], higher is better, and 1 is ideal.

  Source: Zhao et al., 2024, https://arxiv.org/abs/2406.01257.

  Args:
    unlearned: the accuracies named in `AVERAGED`.
    retrained: the same of a retrained model.
  """
  names = [name for name in AVERAGED if name.startswith('accuracy.')]
  gaps = [abs(unlearned[name] - retrained[name]) for name in names]
  return float(np.prod(1 - np.array(gaps)))


def adaptive_unlearning_score(
  forget: float, test: float, test_original: float, *, removes_classes: bool
) -> float:
  """AUS: test accuracy kept, over the distance of forget accuracy to its goal.

  Higher is better; above 1 if test accuracy rises. There is no retrained model
  in it, so the ideal is the score of one.

  Source: Cotogni et al., 2023, https://arxiv.org/abs/2312.02052.

  Args:
    forget: accuracy on the forget set.
    test: accuracy on the test set.
    test_original: the same of the original model.
    removes_classes: whether whole classes go, so that the goal is 0; else it is
      the test accuracy.
  """
  goal = 0.0 if removes_classes else test
  return (1 - (test_original - test)) / (1 + abs(goal - forget))


def nomus(test: float, attack: float, weight: float = 0.5) -> float:
  """NoMUS: test accuracy, and how close an attack is to guessing, weighted.

  In [0, 1], higher is better; the ideal is the score of a retrained model.

  Source: Choi & Na, 2023, https://arxiv.org/abs/2311.02240.

  Args:
    test: accuracy on the test set.
    attack: accuracy of a membership attack.
    weight: of the test accuracy, in [0, 1].

  Raises:
    ValueError: if `weight` is out of bounds.
  """
  if not 0 <= weight <= 1:
    raise ValueError(f'weight must be in [0, 1], got {weight}.')
  return weight * test + (1 - weight) * (1 - 2 * abs(attack - 0.5))


def mu_bench_score(
  forget: float, test: float, test_original: float, *, classes: int
) -> float:
  """Harmonic mean of test accuracy kept and forget accuracy near chance.

  In [0, 1]. For comparison with published numbers alone: where a retrained
  model still recognises the forget set, it rewards distance from retraining,
  and a damaged model wins. Show it beside `tug_of_war`.

  Source: Cheng & Amiri, "MU-Bench", 2024, https://arxiv.org/abs/2406.14796.

  Args:
    forget: accuracy on the forget set.
    test: accuracy on the test set.
    test_original: the same of the original model.
    classes: of the task.
  """
  parts = 1 - abs(test - test_original), 1 - abs(forget - 1 / classes)
  return 0.0 if 0 in parts else 2 / sum(1 / part for part in parts)
