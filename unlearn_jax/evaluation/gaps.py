"""Distances to a retrained model that join several metrics in one number."""

from collections.abc import Mapping

import numpy as np

AVERAGED = (
  'accuracy.forget',
  'accuracy.retain',
  'accuracy.test',
  'mia.paper_loss',
)


def average_gap(
  unlearned: Mapping[str, float], retrained: Mapping[str, float]
) -> float:
  """Mean absolute difference over forget, retain and test accuracy and attack.

  In [0, 1]; 0 is ideal, and two retrained models differ too: their noise floor
  says by how much. nan where a value is.

  Args:
    unlearned: the values named in `AVERAGED`.
    retrained: the same of a retrained model.
  """
  gaps = [abs(unlearned[name] - retrained[name]) for name in AVERAGED]
  return float(np.mean(gaps))
