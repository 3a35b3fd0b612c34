"""Finds the settings of methods for a kind of request, and records how.

The model, the forget set and the retrained models of a search are those of a
seed that no result uses; scores are of validation data. A setting that is as
near as retrained models are to each other cannot be told from retraining: the
preset stays if it is, else the nearest setting is chosen.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments import calibration
from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.evaluation.gaps import average_gap
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.validation import validation_values
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import search as search_lib
from unlearn_jax.reporting.records import write_text
from unlearn_jax.types import InputError, Params

SEED = 1_000  # Of the models and forget sets of searches.
GAP = 'gap'
_MOST_RETAINED = 1_000  # Examples that scores are of.


def find_settings(
  task: Task,
  references: Sequence[calibration.Reference],
  method: str,
  preset: Preset,
  original: Params,
  *,
  settings: int,
) -> dict[str, Any]:
  """Searches the settings of a method.

  Args:
    task: corpus and network.
    references: each is forgotten with every setting; of their gaps the mean
      counts.
    method: with a preset.
    preset: of the registry, which is the first setting.
    original: the model of that seed.
    settings: how many to try.

  Returns:
    a record that JSON can hold: every trial, which was chosen, which is the
    preset (None if fewer settings were tried than it has lengths), the cost.

  Raises:
    InputError: if no gap is defined, as where the validation set is empty.
  """
  cells = [reference.cell for reference in references]
  scores = [_Score(task, r.cell, r.retrained) for r in references]
  read, read_s = calibration.of_search(
    task, references, method, preset, original
  )
  preset = dataclasses.replace(preset, options={**preset.options, **read})
  each = [
    search_lib.search(
      method,
      registry.spec(method),
      task.problem,
      preset,
      original,
      (cell.rows['forget'], cell.rows['retain']),
      task.examples,
      score,
      settings=settings,
      seed=SEED,
    )
    for cell, score in zip(cells, scores, strict=True)
  ]
  found = search_lib.mean(each)
  floors = [gap for score in scores for gap in score.floor]
  forget = ', '.join(cell.request for cell in cells)
  try:
    best = found.best(
      GAP, preset=preset, floor=float(np.mean(floors)) if floors else 0.0
    )
  except ValueError as error:
    raise InputError(
      f'--search_on={forget}: no setting of {method} has a gap to retraining; '
      'the validation set must have recordings that match those to forget.'
    ) from error
  passes = task.recipe.epochs * len(cells[0].rows['retain'])
  return {
    'method': method,
    'forget': forget,
    'forget_hash': ', '.join(cell.subsets.forget_hash for cell in cells),
    'seed': SEED,
    'retrain_gaps': floors,
    'retrain_examples': passes,
    'cost': {
      'compile_s': found.compile_s,
      'run_s': found.run_s,
      'score_s': found.score_s,
      'calibrate_s': read_s,
    },
    'chosen': found.trials.index(best),
    'preset': next(
      (i for i, t in enumerate(found.trials) if t.preset == preset), None
    ),
    'trials': [
      {
        'preset': dataclasses.asdict(trial.preset),
        'examples': trial.examples,
        **trial.values,
      }
      for trial in found.trials
    ],
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
  }


def save(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Writes a record; a `kill -9` leaves the whole of it or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, f'{json.dumps(record)}\n')


def chosen(path: pathlib.Path) -> Preset:
  """Returns the setting that a search chose.

  Raises:
    InputError: if the file is not one that `save` wrote.
  """
  try:
    record = json.loads(path.read_text('utf-8'))
    return Preset(**record['trials'][record['chosen']]['preset'])
  except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    raise InputError(
      f'{path}: must be the record of a search and is not ({error}); remove it '
      'to search again.'
    ) from error


class _Score:
  """Maps parameters to the gap to retraining and what it is of.

  Attributes:
    floor: gaps of each retrained model to the mean of the others.
  """

  def __init__(self, task: Task, cell: Cell, retrained: Sequence[Outcome]):
    self._task = task
    retain = cell.rows['retain']
    every = max(1, -(-len(retain) // _MOST_RETAINED))
    which = {'retain': slice(None, None, every)}
    self._rows = {
      name: cell.rows[name][which.get(name, slice(None))]
      for name in ('forget', 'retain', 'validation')
    }
    self._subsets = dataclasses.replace(
      cell.subsets,
      labels={name: task.label[rows] for name, rows in self._rows.items()},
    )
    each = [
      self._measure(
        {n: o.logits[n][which.get(n, slice(None))] for n in self._rows}
      )
      for o in retrained
    ]
    self._ideal = _mean(each)
    self.floor = [
      average_gap(own, _mean([other for other in each if other is not own]))
      for own in each
      if len(each) > 1
    ]

  def __call__(self, params: Params) -> dict[str, float]:
    """Returns the gap and the values that it is of."""
    values = self._measure(
      {name: self._task.logits(params, r) for name, r in self._rows.items()}
    )
    return {GAP: average_gap(values, self._ideal), **values}

  def _measure(self, logits):
    return validation_values(logits, self._subsets)


def _mean(many):
  return {n: float(np.mean([values[n] for values in many])) for n in many[0]}
