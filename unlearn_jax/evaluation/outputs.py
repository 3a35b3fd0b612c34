"""Distances between what two models say of the same examples."""

import numpy as np
import scipy.special

_LN2 = float(np.log(2))


def probabilities(logits: np.ndarray) -> np.ndarray:
  """Returns the softmax of [..., classes] in float64."""
  return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Returns the Jensen-Shannon divergence in nats, [...] in [0, ln 2].

  Summed over the classes, not averaged; 0 log 0 is 0.

  Args:
    p: [..., classes], probabilities.
    q: the same.

  Raises:
    ValueError: if the shapes differ.
  """
  p, q = _same_shape(p, q)
  middle = (p + q) / 2
  kl = scipy.special.rel_entr(p, middle) + scipy.special.rel_entr(q, middle)
  return np.clip(kl.sum(-1) / 2, 0.0, _LN2)


def js_to_retrain(p_u: np.ndarray, p_r: np.ndarray) -> float:
  """Returns the mean divergence from a retrained model; lower is better.

  The ideal is the value of another retrained model, not 0.

  Args:
    p_u: [examples, classes], probabilities of the unlearned model.
    p_r: the same of the retrained model.

  Returns:
    in [0, ln 2]; nan of no examples.
  """
  return _mean(jensen_shannon(p_u, p_r))


def zrf(p_u: np.ndarray, p_bad: np.ndarray) -> float:
  """Returns the zero retrain forgetting score, in the form that is bounded.

  One minus the mean divergence in bits from networks that were never trained.
  The ideal is the score of a retrained model, not 1: a model that never saw
  the examples still has an opinion of them.

  Source: Chundawat et al., 2023, https://arxiv.org/abs/2205.08096.

  Args:
    p_u: [examples, classes], probabilities of the unlearned model.
    p_bad: [networks, examples, classes] of fresh random networks; ten are
      enough.

  Returns:
    in [0, 1]; nan of no examples.

  Raises:
    ValueError: if the shapes do not fit.
  """
  p_u, p_bad = np.asarray(p_u, np.float64), np.asarray(p_bad, np.float64)
  if p_bad.ndim != 3 or p_bad.shape[1:] != p_u.shape:
    raise ValueError(
      f'p_bad must be [networks, {p_u.shape}], got {p_bad.shape}.'
    )
  p_u = np.broadcast_to(p_u, p_bad.shape)
  return 1 - _mean(jensen_shannon(p_u, p_bad)) / _LN2


def activation_distance(p_u: np.ndarray, p_r: np.ndarray) -> float:
  """Returns the mean L2 distance of the probabilities, in [0, sqrt 2].

  The ideal is the value of another retrained model; lower is better.

  Args:
    p_u: [examples, classes], probabilities of the unlearned model.
    p_r: the same of the retrained model.

  Returns:
    nan of no examples.
  """
  p_u, p_r = _same_shape(p_u, p_r)
  return _mean(np.linalg.norm(p_u - p_r, axis=-1))


def _same_shape(p, q):
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  if p.shape != q.shape:
    raise ValueError(f'shapes must be the same, got {p.shape} and {q.shape}.')
  return p, q


def _mean(values):
  return float(values.mean()) if values.size else float('nan')
