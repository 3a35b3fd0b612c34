"""Accuracy and F1 in float64, with empty sets and absent classes defined."""

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Share of predictions equal to the label; nan for an empty set.

  >>> round(accuracy(np.array([0, 0, 1]), np.array([0, 1, 1])), 6)
  0.666667

  Args:
    labels: [n] int.
    predictions: [n] int.
  """
  if not len(labels):
    return float('nan')
  return float(np.mean(np.equal(labels, predictions)))


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Mean recall over the classes present in the labels; nan if there is none.

  Args:
    labels: [n] int.
    predictions: [n] int.
  """
  classes = np.unique(labels)
  if not len(classes):
    return float('nan')
  recalls = [np.mean(predictions[labels == c] == c) for c in classes]
  return float(np.mean(recalls))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
  r"""Mean F1 over the classes present in labels or predictions.

  .. math:: F1_c = 2 tp / (2 tp + fp + fn)

  A class that is never predicted rightly counts 0, one that occurs nowhere is
  left out; nan for an empty set.

  Args:
    labels: [n] int.
    predictions: [n] int.
  """
  if not len(labels):
    return float('nan')
  count = int(max(labels.max(), predictions.max())) + 1
  hits = np.bincount(labels[labels == predictions], minlength=count)
  total = np.bincount(labels, minlength=count)
  total += np.bincount(predictions, minlength=count)
  present = total > 0
  return float(np.mean(2.0 * hits[present] / total[present]))


def matched_accuracy(
  labels: np.ndarray, predictions: np.ndarray, like: np.ndarray
) -> float:
  """Accuracy with each class weighted by its share in another set.

  Args:
    labels: [n] int.
    predictions: [n] int.
    like: [m] int, labels whose class mix is taken. Classes that `labels` lack
      are left out; nan where it lacks all.
  """
  classes, counts = np.unique(like, return_counts=True)
  there = np.isin(classes, labels)
  if not there.any():
    return float('nan')
  recalls = [np.mean(predictions[labels == c] == c) for c in classes[there]]
  return float(np.average(recalls, weights=counts[there]))
