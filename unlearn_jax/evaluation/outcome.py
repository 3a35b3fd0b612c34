"""What a run leaves for the evaluation: logits, curves and costs, no model."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from unlearn_jax.types import InputError

SETS = ('forget', 'retain', 'validation', 'test')
RETRAIN, ORIGINAL = 'retrain', 'original'  # Methods that others stand beside.


@dataclasses.dataclass(frozen=True, eq=False)
class Subsets:
  """What is known of the examples that models are evaluated on.

  Attributes:
    labels: of each set in `SETS`, [n] int.
    class_names: of the labels.
    forgotten_classes: classes that the request removes whole.
    forget_hash: names the forget set.
    properties: besides the label, what non-members should share with members:
      by name ('speaker'), of each set, [n] int.
    untrained: logits of networks that were never trained, on the forget set,
      [networks, n, classes]; None if there are none.
  """

  labels: Mapping[str, np.ndarray]
  class_names: tuple[str, ...]
  forgotten_classes: tuple[int, ...] = ()
  forget_hash: str = ''
  properties: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  untrained: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """A finished run.

  Attributes:
    method: 'original', or a name in the registry of methods.
    seed: of the run.
    replicate: of several runs that differ in their random numbers alone.
    logits: of each set in `SETS`, [n, classes] float32.
    curves: values after each epoch, the first before any step.
    cost: seconds, steps, examples and bytes.
    inner: metrics that take the model itself, by name; not written to disk.
  """

  method: str
  seed: int
  replicate: int
  logits: Mapping[str, np.ndarray]
  curves: Mapping[str, np.ndarray]
  cost: Mapping[str, float]
  inner: Mapping[str, float] = dataclasses.field(default_factory=dict)


def save(outcome: Outcome, path: pathlib.Path) -> None:
  """Writes an outcome; a `kill -9` leaves the whole of it or nothing."""
  arrays: dict[str, Any] = {f'logits/{k}': v for k, v in outcome.logits.items()}
  arrays |= {f'curves/{k}': v for k, v in outcome.curves.items()}
  names = ('method', 'seed', 'replicate')
  head = {name: getattr(outcome, name) for name in names}
  head['cost'] = dict(outcome.cost)
  arrays['head'] = np.array(json.dumps(head))
  partial = path.with_suffix('.partial')
  with open(partial, 'wb') as file:
    np.savez_compressed(file, **arrays)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def load(path: pathlib.Path) -> Outcome:
  """Reads what `save` wrote.

  Raises:
    InputError: if it is something else.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
    head = json.loads(str(arrays.pop('head')))
    groups: dict[str, Any] = {'logits': {}, 'curves': {}}
    for name, array in arrays.items():
      group, _, rest = name.partition('/')
      groups[group][rest] = array
    return Outcome(**head, **groups)
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise InputError(
      f'{path}: must be the outcome of a run and is not ({error}); remove it '
      'to run again.'
    ) from error
