"""What a search of settings may know: the average gap without test data."""

from collections.abc import Mapping

import numpy as np

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import measure
from unlearn_jax.evaluation import population_mia as mia
from unlearn_jax.evaluation import roc
from unlearn_jax.evaluation.outcome import Subsets


def validation_values(
  logits: Mapping[str, np.ndarray], subsets: Subsets
) -> dict[str, float]:
  """Measures what the average gap is of, on validation data for test data.

  Where whole classes are forgotten, their validation examples are left out.

  Args:
    logits: of 'forget', 'retain' and 'validation', [n, classes].
    subsets: labels of the same examples.

  Returns:
    the values of `gaps.AVERAGED`, 'accuracy.test' and the attack being those on
    validation data; nan where a set is empty.
  """
  labels = dict(subsets.labels)
  sides = [
    -mia.cross_entropy(logits[name][rows], labels[name][rows])
    for name, rows in zip(
      ('forget', 'validation'),
      measure.match(subsets, 'validation'),
      strict=True,
    )
  ]
  keep = ~np.isin(labels['validation'], subsets.forgotten_classes)
  labels['validation'] = labels['validation'][keep]
  known = {**logits, 'validation': logits['validation'][keep]}
  right = {n: accuracy.accuracy(labels[n], known[n].argmax(-1)) for n in known}
  values = {
    'accuracy.forget': right['forget'],
    'accuracy.retain': right['retain'],
    'accuracy.test': right['validation'],
    'mia.loss_threshold.auc': roc.auc(*sides),
  }
  assert set(values) == set(gaps.AVERAGED)
  return values
