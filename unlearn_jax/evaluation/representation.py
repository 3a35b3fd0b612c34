"""How far apart two models are inside: their weights and their activations."""

from typing import Any, NamedTuple

import jax
import numpy as np


class WeightDistance(NamedTuple):
  """L2 distances, of all weights and of each leaf by its path."""

  total: float
  by_leaf: dict[str, float]


def weight_distance(params: Any, other: Any) -> WeightDistance:
  """Returns how far apart two models are, at least 0.

  For diagnosis only: networks that do the same may have far different weights.
  Compare with the distance of two retrained models.

  Args:
    params: a pytree of arrays.
    other: of the same structure and shapes.

  Raises:
    ValueError: if structures or shapes differ.
  """
  shapes, others = (jax.tree.map(np.shape, tree) for tree in (params, other))
  if shapes != others:
    raise ValueError(
      'parameters must have the same structure and shapes, got '
      f'{shapes} and {others}.'
    )
  squares = {
    jax.tree_util.keystr(path, simple=True, separator='/'): float(
      np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum()
    )
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(params),
      jax.tree.leaves(other),
      strict=True,
    )
  }
  by_leaf = {name: float(np.sqrt(value)) for name, value in squares.items()}
  return WeightDistance(float(np.sqrt(sum(squares.values()))), by_leaf)


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
  r"""Returns the linear centred kernel alignment of two representations.

  .. math:: ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)

  of centred features. In [0, 1], 1 for representations that differ by a
  rotation and a scale. The ideal is the value between two retrained models.
  Biased upwards with fewer examples than features: use 500 or more.

  Source: Kornblith et al., 2019, https://arxiv.org/abs/1905.00414.

  Args:
    x: [examples, features], activations of one model.
    y: [examples, other features], of another.

  Returns:
    nan where one of them is constant, or there are no examples.

  Raises:
    ValueError: if the examples differ.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
    raise ValueError(
      'representations must be [examples, features] of the same examples, got '
      f'{x.shape} and {y.shape}.'
    )
  if not len(x):
    return float('nan')
  x, y = _centred(x), _centred(y)
  scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
  if not scale:
    return float('nan')
  return float(np.clip(np.linalg.norm(y.T @ x) ** 2 / scale, 0.0, 1.0))


def _centred(x):
  # The mean of equal values may be off by rounding, so they are set to 0.
  return np.where(np.ptp(x, axis=0) > 0, x - x.mean(0), 0.0)
