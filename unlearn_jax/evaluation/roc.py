"""ROC curves of attack scores; a higher score says "member"."""

import numpy as np
import sklearn.metrics


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
  """Area under the ROC curve, where ties count half; nan for an empty side.

  >>> auc(np.array([-0.1, -0.2, -0.4]), np.array([-0.3, -0.5, -0.9]))
  0.888...

  Args:
    positives: [m] scores.
    negatives: [n] scores.
  """
  if not len(positives) or not len(negatives):
    return float('nan')
  return float(sklearn.metrics.roc_auc_score(*_joined(positives, negatives)))


def curve(
  positives: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the false and the true positive rates of all thresholds.

  Args:
    positives: [m] scores, not empty.
    negatives: [n] scores, not empty.

  Returns:
    two arrays that rise from 0 to 1.
  """
  labels, scores = _joined(positives, negatives)
  false, true, _ = sklearn.metrics.roc_curve(labels, scores)
  return false, true


def _joined(positives, negatives):
  labels = np.arange(len(positives) + len(negatives)) < len(positives)
  return labels, np.concatenate([positives, negatives])


def tpr_at(positives: np.ndarray, negatives: np.ndarray, fpr: float) -> float:
  """Largest true positive rate whose false positive rate is at most `fpr`.

  Args:
    positives: [m] scores; nan is returned for none.
    negatives: [n] scores; nan is returned for fewer than 10 / fpr.
    fpr: in (0, 1).
  """
  if not len(positives) or len(negatives) < 10 / fpr:
    return float('nan')
  allowed = int(np.floor(fpr * len(negatives)))
  threshold = np.sort(negatives)[-allowed - 1]
  return float((positives > threshold).mean())
