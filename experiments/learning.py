"""What is looked at while a run learns, and what is chosen by it."""

import jax
import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.evaluation.accuracy import accuracy
from unlearn_jax.evaluation.accuracy import matched_accuracy
from unlearn_jax.methods.rewind import rewind
from unlearn_jax.training.fit import FitResult
from unlearn_jax.types import InputError, Params

_OBSERVED_VALIDATION = 1_000


def observe(task: Task, cell: Cell, params: Params) -> dict[str, float]:
  """Returns values for the learning curves, without classes forgotten whole."""
  label, validation = task.label, cell.rows['validation']
  forgotten = np.isin(label[validation], cell.subsets.forgotten_classes)
  validation = validation[~forgotten]
  every = max(1, -(-len(validation) // _OBSERVED_VALIDATION))
  values = {
    'validation': accuracy(*_predictions(task, params, validation[::every]))
  }
  if len(cell.rows['forget']):
    pair = _predictions(task, params, cell.rows['forget'])
    values['forget'] = accuracy(*pair)
  return {f'{name}_accuracy': value for name, value in values.items()}


def rewound(task: Task, cell: Cell, result: FitResult) -> Params:
  """Returns the kept parameters that SCRUB+R chooses.

  The held-out set is the validation set, weighted to the class mix of the
  forget set.

  Raises:
    InputError: if the validation set has none of the forgotten classes.
  """
  forget_errors = 1 - np.asarray(result.progress.curves['forget_accuracy'])
  label, predictions = _predictions(
    task, result.state.params, cell.rows['validation']
  )
  held_out = matched_accuracy(
    label, predictions, task.label[cell.rows['forget']]
  )
  if np.isnan(held_out):
    raise InputError(
      'scrub_rewind: the validation set must have recordings of the '
      'forgotten classes and has none.'
    )
  epoch = rewind(forget_errors[1:], 1 - held_out)
  return jax.tree.map(lambda leaf: leaf[epoch], result.kept)


def _predictions(task, params, rows):
  """Returns labels and predictions of `rows`."""
  return task.label[rows], task.logits(params, rows).argmax(-1)
