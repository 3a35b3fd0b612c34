"""What a run is to do: where it starts, and its batches."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments import calibration
from experiments.cells import Cell
from experiments.cells import Run
from experiments.task import Task
from unlearn_jax.datasets import batches
from unlearn_jax.datasets.lengths import by_length
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.training import fit
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import MethodState, Params, UnlearningMethod


class Course(NamedTuple):
  """What a run is to do, as `fit` takes it."""

  state: loop.RunState
  epochs: int
  batches: Callable[[int], fit.EpochBatches]
  prepare: fit.EpochBatches = (None, None)
  keep: bool = False
  spent_s: float = 0.0  # Before the first step, of the time that counts.


def of_run(
  task: Task,
  method: UnlearningMethod,
  preset: Preset | None,
  cell: Cell,
  run: Run,
  original: Params | None,
) -> Course:
  """Returns what a run is to do; the same every time.

  Args:
    task: corpus and network.
    method: of the run; retraining for an original model.
    preset: of the method; None trains from scratch.
    cell: of the run's seed.
    run: its name decides all that is random.
    original: where unlearning starts.
  """
  if run.method in (ORIGINAL, RETRAIN) or preset is None:
    rows = cell.rows['retain'] if run.method == RETRAIN else cell.training
    return _training(task, method, run, rows)
  spec = registry.spec(run.method)
  forget, retain = cell.rows['forget'], cell.rows['retain']

  def epoch_batches(epoch):
    made = spec.epoch_batches(
      preset, forget, retain, epoch=epoch, seed=run.entropy()
    )
    return _by_length(task, run, epoch, made)

  steps = map(fit.steps_of, map(epoch_batches, range(preset.epochs)))
  state = loop.init(method, original, run.key())
  found, spent_s = calibration.options(task, cell, run.method, preset, original)
  if found:
    state = state.replace(method_state=with_options(state.method_state, found))
  return Course(
    set_total_steps(state, sum(steps)),
    preset.epochs,
    epoch_batches,
    spec.prepare_batches(preset, forget, retain),
    keep=spec.rewinds,
    spent_s=spent_s,
  )


def with_options(
  state: MethodState, options: Mapping[str, float]
) -> MethodState:
  """Returns the state of a method with other scalars of its rule."""
  values = {name: jnp.float32(value) for name, value in options.items()}
  return optax.tree_utils.tree_set(
    state,
    lambda path, leaf: jnp.ndim(leaf) == 0,  # Not a weight of that name.
    **values,
  )


def _training(task, method, run, rows):
  """Trains from scratch on `rows`."""
  recipe, init_fn = task.recipe, task.classifier.init_fn
  state = loop.init(method, init_fn(run.key()), run.key())

  def epoch_batches(epoch):
    rng = np.random.default_rng([*run.entropy(), epoch])
    made = None, batches.one_pass(rows, recipe.batch_size, rng)
    return _by_length(task, run, epoch, made)

  state = set_total_steps(state, recipe.steps(len(rows)))
  return Course(state, recipe.epochs, epoch_batches)


def _by_length(task, run, epoch, made):
  """Returns the batches of an epoch, of similar length where that is asked."""
  if not task.data.in_buckets:
    return made
  lengths = task.examples[task.data.input_name].lengths
  return by_length(
    made, lengths, np.random.default_rng([*run.entropy(), epoch, 1])
  )
