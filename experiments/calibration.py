"""What methods read off recordings that models never heard."""

from collections.abc import Sequence
import dataclasses
import time

import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation import measure
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.methods import registry
from unlearn_jax.methods.confidence_matching import logit_confidence
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import search as search_lib
from unlearn_jax.populations.search import Search
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
) -> tuple[dict[str, float], Sequence[Search]]:
  """Returns options of a method for all models of a kind of request.

  No options leave the preset's. Of all of a speaker or a class, what the
  retrained models of a search say of what they never heard; of single
  recordings, what `options` reads off the original model of the search.

  A run lowers what a model says of everything that it never heard, and whoever
  judges a forgotten speaker compares with recordings that were held out. So
  the forget sets of a search are forgotten once, and what the retrained models
  say counts as changed by as much as the recordings that were held out. There
  are none of a class that goes whole.

  Args:
    task: corpus and network.
    references: of the search.
    method: in the registry.
    preset: says whether to calibrate.
    original: the model of the search.

  Returns:
    options, and what was run to find them.
  """
  read = registry.spec(method).from_unheard
  if read is None or not preset.calibrate:
    return {}, ()
  scope = _scope(task, references[0].cell)
  if scope == 'sample':
    found, _ = options(task, references[0].cell, method, preset, original)
    return found, ()

  def found_with(changes):
    heard, unheard, label = [], [], []
    for reference, change in zip(references, changes, strict=True):
      rows = reference.cell.rows['forget']
      said = task.logits(original, rows)
      own = np.arange(len(rows)), task.label[rows]
      for outcome in reference.retrained:
        heard.append(said)
        unheard.append(outcome.logits['forget'].astype(np.float64))
        unheard[-1][own] += change
        label.append(task.label[rows])
    each = np.concatenate(label)
    try:
      return read(
        preset.options,
        np.concatenate(heard),
        each,
        np.concatenate(unheard),
        each,
      )
    except ValueError:
      return {}

  found = found_with([0.0] * len(references))
  held_out = [
    measure.match(reference.cell.subsets, 'validation')[1]
    for reference in references
    if scope == 'group'
  ]
  if not (found and held_out and all(map(len, held_out))):
    return found, ()
  preset = dataclasses.replace(preset, options={**preset.options, **found})
  pilots, changes = zip(
    *(
      _pilot(task, reference, method, preset, original, matched)
      for reference, matched in zip(references, held_out, strict=True)
    ),
    strict=True,
  )
  return found_with(changes) or found, pilots


def _pilot(task, reference, method, preset, original, matched):
  """Runs a method; returns what was run and how much it changed.

  That is the mean confidence in those of the validation set that match those
  to forget, less that of the retrained models, in nats.
  """
  cell = reference.cell
  rows = cell.rows['validation'][matched]

  def mean(logits):
    return float(np.mean(logit_confidence(logits, task.label[rows])))

  run = search_lib.search(
    method,
    registry.spec(method),
    task.problem,
    preset,
    original,
    (cell.rows['forget'], cell.rows['retain']),
    task.examples,
    lambda params: {'confidence': mean(task.logits(params, rows))},
    settings=1,
    seed=cell.seed,
  )
  retrained = [
    mean(outcome.logits['validation'][matched])
    for outcome in reference.retrained
  ]
  said = run.trials[0].values['confidence']
  return run, said - float(np.mean(retrained))


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


def _scope(task, cell):
  return forget.scope(forget.parse(cell.request), task.training.task)


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
  if read is None or not preset.calibrate or _scope(task, cell) != 'sample':
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
