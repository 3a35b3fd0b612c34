"""Reads the fields of a `config.json`, and says what is wrong with them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Fields:
  """The fields of one file.

  Attributes:
    source: the file, for errors.
    values: its content.
  """

  source: str
  values: Mapping[str, Any]

  def integer(self, name: str, default: int | None = None) -> int:
    """Returns a whole number, at least 1.

    Raises:
      InputError: if it is missing or something else.
    """
    value = self.values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise self.error(name, value, 'a whole number, at least 1')
    return value

  def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Returns whole numbers, each at least 1.

    Raises:
      InputError: if they are something else.
    """
    value = self.values.get(name, default)
    if not isinstance(value, list | tuple) or not all(
      isinstance(v, int) and v >= 1 for v in value
    ):
      raise self.error(name, value, 'whole numbers, each at least 1')
    return tuple(value)

  def share(self, name: str, default: float) -> float:
    """Returns a number in [0, 1].

    Raises:
      InputError: if it is something else.
    """
    value = self.values.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
      raise self.error(name, value, 'a number in [0, 1]')
    return float(value)

  def number(self, name: str, default: float) -> float:
    """Returns a number above 0.

    Raises:
      InputError: if it is something else.
    """
    value = self.values.get(name, default)
    if not isinstance(value, int | float) or not value > 0:
      raise self.error(name, value, 'a number above 0')
    return float(value)

  def flag(self, name: str, default: bool) -> bool:
    """Returns true or false.

    Raises:
      InputError: if it is something else.
    """
    value = self.values.get(name, default)
    if not isinstance(value, bool):
      raise self.error(name, value, 'true or false')
    return value

  def expect(self, name: str, *allowed: Any) -> Any:
    """Returns a field, of which only these values are known here.

    Raises:
      InputError: if it is another; the first is the value of one that is
        absent.
    """
    value = self.values.get(name, allowed[0])
    if value not in allowed:
      raise self.error(name, value, ' or '.join(map(repr, allowed)))
    return value

  def error(self, name: str, value: object, allowed: str) -> InputError:
    """Returns the error for a field."""
    return InputError(
      f'{self.source}: {name} must be {allowed}, got {value!r}.'
    )
