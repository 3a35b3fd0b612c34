"""Two worlds of models, and what is said of one that does not fit."""

from typing import NamedTuple

import numpy as np


class Worlds(NamedTuple):
  """Logit confidences, and which of them count on which side.

  A model may be on either side of different examples.

  Attributes:
    phi_u: [models, examples], of models that ran the method.
    in_u: [models, examples] bool, which of them unlearned which example.
    phi_r: [other models, examples], of models of the other side.
    in_r: [other models, examples] bool, which never saw which example.
  """

  phi_u: np.ndarray
  in_u: np.ndarray
  phi_r: np.ndarray
  in_r: np.ndarray


def draw(
  phi: np.ndarray,
  inside: np.ndarray,
  size: int,
  columns: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns the values of `size` models that are inside, of each example.

  Args:
    phi: [models, examples].
    inside: [models, examples] bool; of each column at least `size`.
    size: models to draw, without replacement.
    columns: examples to keep.
    rng: of the draw.

  Returns:
    [size, columns].
  """
  chance = rng.random((len(phi), len(columns)))
  order = np.where(inside[:, columns], chance, np.inf).argsort(0)[:size]
  return np.take_along_axis(phi[:, columns], order, 0)


def split(
  phi: np.ndarray, never: np.ndarray, rng: np.random.Generator
) -> Worlds:
  """Deals the models that never saw an example to two sides, at random.

  Args:
    phi: [models, examples].
    never: [models, examples] bool.
    rng: of the deal.
  """
  order = np.where(never, rng.random(phi.shape), np.inf).argsort(0)
  rank = np.empty_like(order)
  np.put_along_axis(rank, order, np.arange(len(phi))[:, None], 0)
  return Worlds(phi, never & (rank % 2 == 0), phi, never & (rank % 2 == 1))


def check_worlds(
  phi_u: np.ndarray, phi_r: np.ndarray, *, least: int, name: str
) -> None:
  """Checks values [models, examples] of unlearned and of retrained models.

  Args:
    phi_u: of unlearned models.
    phi_r: of retrained models.
    least: how many models each world needs.
    name: of the metric, for messages.

  Raises:
    ValueError: in one line, if shapes do not fit, there is no example, a world
      is too small, or a value is not finite.
  """
  shapes = np.shape(phi_u), np.shape(phi_r)
  if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
    raise ValueError(
      'the worlds must be [models, examples] with the same examples, got '
      f'{shapes[0]} and {shapes[1]}.'
    )
  if not shapes[0][1]:
    raise ValueError('the forget set must not be empty, got no example.')
  if min(shapes[0][0], shapes[1][0]) < least:
    raise ValueError(
      f'{name} needs {least} models in each world, got {shapes[0][0]} '
      f'unlearned and {shapes[1][0]} retrained.'
    )
  for world, phi in (('phi_u', phi_u), ('phi_r', phi_r)):
    if bad := int((~np.isfinite(phi)).sum()):
      raise ValueError(f'{world} must be finite, got {bad} that are not.')
