r"""Collapse: has a model become a constant that no longer tells classes apart?

.. math:: \mathrm{excess} = (s - \pi) / (1 - \pi)

with s the share of predictions that equal the most predicted class, and pi the
share of labels of that class. 1 is a constant predictor; a sound model has
about 0. Without this flag a constant predictor can pass for one that has
forgotten well.
"""

import numpy as np

from unlearn_jax.evaluation.accuracy import balanced_accuracy

_MAX_EXCESS_ABOVE_RETRAIN = 0.1
_MIN_TIMES_CHANCE = 1.5
_MIN_SHARE_OF_CLASSES = 0.5


def excess(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the excess of the most predicted class, in (-inf, 1].

  nan for an empty set, or where all labels are of that class.

  Args:
    labels: [n] int.
    predictions: [n] int.
  """
  if not len(labels):
    return float('nan')
  values, counts = np.unique(predictions, return_counts=True)
  share = counts.max() / len(predictions)
  share_of_labels = float(np.mean(labels == values[counts.argmax()]))
  if share_of_labels == 1.0:
    return float('nan')
  return float((share - share_of_labels) / (1.0 - share_of_labels))


def prediction_entropy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the entropy of the predicted classes, over its largest value.

  In [0, 1]: 0 for a constant predictor, 1 where all classes that occur are
  predicted equally often. nan for an empty set, or a single class.

  Args:
    labels: [n] int.
    predictions: [n] int.
  """
  classes = len(np.union1d(labels, predictions))
  if classes < 2:
    return float('nan')
  shares = np.unique(predictions, return_counts=True)[1] / len(predictions)
  return float(max(-(shares * np.log(shares)).sum() / np.log(classes), 0.0))


def is_collapsed(
  labels: np.ndarray,
  predictions: np.ndarray,
  *,
  retrain_excess: float | None = None,
) -> bool:
  """Flags a model by its predictions on test data.

  It has collapsed if its excess is more than 0.1 above that of retraining, its
  balanced accuracy is below 1.5 times chance, or it predicts fewer than half
  of the classes that occur.

  Args:
    labels: [n] int, of classes that the model should know.
    predictions: [n] int.
    retrain_excess: of a retrained model; None counts as 0.
  """
  if not len(labels):
    return False
  classes = len(np.unique(labels))
  above = excess(labels, predictions) - (retrain_excess or 0.0)
  return bool(
    above > _MAX_EXCESS_ABOVE_RETRAIN
    or balanced_accuracy(labels, predictions) < _MIN_TIMES_CHANCE / classes
    or len(np.unique(predictions)) < _MIN_SHARE_OF_CLASSES * classes
  )
