"""What methods read off recordings that models never heard."""

from collections.abc import Sequence
import dataclasses
import time

import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.types import Params

_MOST, _FEWEST = 2_000, 50  # Recordings of either kind.


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """What a search forgets, and the models that it is to come near.

  Attributes:
    cell: of the seed of searches.
    retrained: at least one of that seed and forget set.
  """

  cell: Cell
  retrained: Sequence[Outcome]


def of_search(
  task: Task,
  references: Sequence[Reference],
  method: str,
  preset: Preset,
  original: Params,
) -> dict[str, float]:
  """Returns options of a method for all models of a kind of request.

  No options leave the preset's. Of all of a speaker or a class, what the
  retrained models of a search say of what they never heard; of single
  recordings, what `options` reads off the original model of the search.

  Args:
    task: corpus and network.
    references: of the search.
    method: in the registry.
    preset: says whether to calibrate.
    original: the model of the search.
  """
  read = registry.spec(method).from_unheard
  if read is None or not preset.calibrate:
    return {}
  if _is_of_samples(task, references[0].cell):
    found, _ = options(task, references[0].cell, method, preset, original)
    return found
  heard, unheard, label = [], [], []
  for reference in references:
    rows = reference.cell.rows['forget']
    logits = task.logits(original, rows)
    for outcome in reference.retrained:
      heard.append(logits)
      unheard.append(outcome.logits['forget'])
      label.append(task.label[rows])
  each = np.concatenate(label)
  try:
    return read(
      preset.options, np.concatenate(heard), each, np.concatenate(unheard), each
    )
  except ValueError:
    return {}


def of_members(
  method: str,
  preset: Preset,
  heard: tuple[np.ndarray, np.ndarray],
  unheard: tuple[np.ndarray, np.ndarray],
  label: np.ndarray,
) -> dict[str, float]:
  """Returns options of a method for all members of a population.

  No options leave the preset's.

  Args:
    method: in the registry.
    preset: says whether to calibrate.
    heard: logits [members, n, classes], and which are of recordings that the
      member was trained on, [members, n] bool.
    unheard: likewise of other members, or the same, and what they never heard.
    label: [n] int.
  """
  read = registry.spec(method).from_unheard
  if read is None or not preset.calibrate:
    return {}
  sides = []
  for logits, which in (heard, unheard):
    sides += [logits[which], np.broadcast_to(label, which.shape)[which]]
  try:
    return read(preset.options, *sides)
  except ValueError:  # Members that diverged say nothing.
    return {}


def _is_of_samples(task, cell):
  request = forget.parse(cell.request)
  return forget.scope(request, task.training.task) == 'sample'


def options(
  task: Task, cell: Cell, method: str, preset: Preset, original: Params
) -> tuple[dict[str, float], float]:
  """Returns options of a method for this model alone, and how long it took.

  No options leave the preset's. Of single recordings alone: never heard is the
  validation set, as far as it is of speakers and keywords that the model was
  trained on.

  Args:
    task: corpus and network.
    cell: what is forgotten.
    method: in the registry.
    preset: says whether to calibrate.
    original: the model.

  Returns:
    options, and seconds without compiling.
  """
  read = registry.spec(method).from_unheard
  if read is None or not preset.calibrate or not _is_of_samples(task, cell):
    return {}, 0.0
  corpus, heard = task.corpus, cell.rows['retain']
  unheard = cell.rows['validation']
  for of in (corpus.speaker, corpus.keyword):
    unheard = unheard[np.isin(of[unheard], of[heard])]
  if min(len(heard), len(unheard)) < _FEWEST:
    return {}, 0.0
  task.logits(original, heard[:1])  # Compiles.
  start, sides = time.perf_counter(), []
  for rows in (heard, unheard):
    rows = rows[:: -(-len(rows) // _MOST)]
    sides += [task.logits(original, rows), task.label[rows]]
  try:
    found = read(preset.options, *sides)
  except ValueError:  # A model that collapsed says nothing.
    found = {}
  return found, time.perf_counter() - start
