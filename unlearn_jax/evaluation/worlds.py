"""Two worlds of models, and what is said of one that does not fit."""

import numpy as np


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
