"""What methods read off recordings that models never heard."""

from collections.abc import Sequence
import dataclasses
import time

import jax
import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.methods import registry
from unlearn_jax.methods.confidence_matching import logit_confidence
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import train
from unlearn_jax.types import Params

_MOST, _FEWEST = 2_000, 50  # Recordings of either kind.
_PILOTS = 8  # A run at a high rate ends a few tenths of a nat from another.


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
) -> tuple[dict[str, float], float]:
  """Returns options of a method for all models of a kind of request.

  No options leave the preset's. Of all of a speaker or a class, what the
  retrained models of a search say of what they never heard; of single
  recordings, what `options` reads off the original model of the search.

  A run lowers what a model says of all that it never heard, and a forgotten
  speaker is compared with that. So a few pilots forget what the search does,
  and what its retrained models say counts as changed by as much as recordings
  that were held out. A model that never heard a class says nothing of it that
  this could be compared with.

  Args:
    task: corpus and network.
    references: of the search.
    method: in the registry.
    preset: says whether to calibrate.
    original: the model of the search.

  Returns:
    options, and seconds; with compiling, but for single recordings.
  """
  read = registry.spec(method).from_unheard
  if read is None or not preset.calibrate:
    return {}, 0.0
  scope = _scope(task, references[0].cell)
  if scope == 'sample':
    return options(task, references[0].cell, method, preset, original)
  start = time.perf_counter()
  forgotten = [reference.cell.rows['forget'] for reference in references]
  said = [task.logits(original, rows) for rows in forgotten]

  def found_with(changes):
    heard, unheard, label = [], [], []
    for i, (reference, rows) in enumerate(
      zip(references, forgotten, strict=True)
    ):
      own = np.arange(len(rows)), task.label[rows]
      for outcome in reference.retrained:
        heard.append(said[i])
        unheard.append(outcome.logits['forget'].astype(np.float64))
        unheard[-1][own] += changes[i]
        label.append(task.label[rows])
    sides = map(np.concatenate, (heard, label, unheard, label))
    try:
      return read(preset.options, *sides)
    except ValueError:
      return {}

  found = found_with([0.0] * len(references))
  if found and scope == 'group':
    preset = dataclasses.replace(preset, options={**preset.options, **found})
    changes = [
      _change(task, reference, method, preset, original)
      for reference in references
    ]
    found = found_with(changes) or found
  return found, time.perf_counter() - start


def _change(task, reference, method, preset, original):
  """Returns how far pilots are from retrained models on what was held out.

  By the mean confidence, in nats, in the validation set without the speaker or
  the keyword that is forgotten; 0 where nothing else was held out.
  """
  cell = reference.cell
  kind = getattr(task.corpus, forget.parse(cell.request).kind)
  sets = cell.rows['forget'], cell.rows['retain']
  held_out = ~np.isin(kind[cell.rows['validation']], kind[sets[0]])
  rows = cell.rows['validation'][held_out]
  if not len(rows):
    return 0.0

  def mean(logits):
    return float(np.mean(logit_confidence(logits, task.label[rows])))

  row = registry.spec(method)
  rule = row.build(task.problem, preset.optimizer(), **preset.options)
  said = []
  for pilot in range(_PILOTS):  # One at a time, as a model may be large.
    models = train.unlearn_population(
      rule,
      jax.tree.map(lambda x: x[None], original),
      lambda _, epoch, pilot=pilot: row.epoch_batches(
        preset, *sets, epoch=epoch, seed=(cell.seed, pilot)
      ),
      [pilot],
      task.examples,
      epochs=preset.epochs,
      prepare_batches=lambda _: row.prepare_batches(preset, *sets),
      execution=train.Execution(chunk=1),
    )
    said.append(mean(task.logits(jax.tree.map(lambda x: x[0], models), rows)))
  retrained = [
    mean(o.logits['validation'][held_out]) for o in reference.retrained
  ]
  return float(np.mean(said) - np.mean(retrained))


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
