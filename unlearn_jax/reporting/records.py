"""Metric cards as JSON lines."""

from collections.abc import Iterable
import os
import pathlib

from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.types import InputError


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a `kill -9` leaves the old or the new one."""
  partial = path.with_name(f'{path.name}.partial')
  with open(partial, 'w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def write(path: pathlib.Path, cards: Iterable[MetricCard]) -> None:
  """Writes one card a line, in place of what was there."""
  write_text(path, ''.join(f'{card.to_json()}\n' for card in cards))


def read(path: pathlib.Path) -> list[MetricCard]:
  """Reads what `write` wrote.

  Raises:
    InputError: if the file cannot be read, or a line is no card.
  """
  try:
    lines = path.read_text('utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path}: cannot be read ({error}).') from error
  cards = []
  for number, line in enumerate(lines, 1):
    try:
      cards.append(MetricCard.from_json(line))
    except (ValueError, TypeError) as error:
      raise InputError(
        f'{path}: line {number} is no metric card ({error}).'
      ) from error
  return cards
