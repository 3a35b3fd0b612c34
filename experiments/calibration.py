"""What methods read off recordings that the original model never heard."""

import time

import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.types import Params

_MOST, _FEWEST = 2_000, 50  # Recordings of either kind.


def options(
  task: Task, cell: Cell, method: str, preset: Preset, original: Params
) -> tuple[dict[str, float], float]:
  """Returns options of a method for this model alone, and how long it took.

  No options leave the preset's.

  Held out is the validation set, as far as it is of speakers and keywords that
  the model was trained on.

  Args:
    task: corpus and network.
    cell: what is forgotten.
    method: in the registry.
    preset: says whether to calibrate.
    original: the model.

  Returns:
    options, and seconds without compiling.
  """
  read = registry.spec(method).from_held_out
  if read is None or not preset.calibrate:
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
    found = read(*sides)
  except ValueError:  # A model that collapsed says nothing.
    found = {}
  return found, time.perf_counter() - start
