"""One run of one method: from parameters to an outcome on disk.

A run leaves its model and its outcome in a folder of its own. An outcome that
is there is not made again; a run that was killed goes on from its latest
checkpoint; so the same command always ends in the same results.
"""

from collections.abc import Mapping
import copy
import functools
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from experiments.cells import Cell
from experiments.cells import Run
from experiments.cli import ShowProgress
from experiments.task import Task
from unlearn_jax.datasets import batches
from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.evaluation.accuracy import accuracy
from unlearn_jax.evaluation.accuracy import matched_accuracy
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.rewind import rewind
from unlearn_jax.training import checkpoint
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import InputError, Params, UnlearningMethod

_OBSERVED_VALIDATION = 1_000


class Runner:
  """Runs methods on the cells of one task, compiling each method once."""

  def __init__(
    self,
    task: Task,
    workdir: pathlib.Path,
    presets: Mapping[str, Preset],
    show_progress: ShowProgress,
    checkpoint_every_s: float = 10.0,
  ):
    """Builds nothing yet.

    Args:
      task: corpus and network.
      workdir: where runs leave their models and outcomes.
      presets: of the methods to be run.
      show_progress: maps a title and a number of epochs to what `fit` calls
        after each.
      checkpoint_every_s: least time between two checkpoints of a run.
    """
    self.task = task
    self.workdir = workdir
    self.presets = presets
    self.show_progress = show_progress
    self._checkpoint_every_s = checkpoint_every_s
    self._programs: dict[Any, fit_lib.Program] = {}

  def at(self, workdir: pathlib.Path) -> 'Runner':
    """Returns the same for another folder; they share compiled programs."""
    other = copy.copy(self)
    other.workdir = workdir
    return other

  def with_presets(self, presets: Mapping[str, Preset]) -> 'Runner':
    """Returns the same with other presets; they share compiled programs."""
    other = copy.copy(self)
    other.presets = presets
    return other

  def outcome(self, cell: Cell, run: Run, original: Params | None) -> Outcome:
    """Returns the outcome of a run, which is made unless it is there.

    Args:
      cell: of the run's seed.
      run: 'original', or a name in the registry of methods.
      original: where unlearning starts; None for training.

    Raises:
      NonFiniteLossError: if a loss is not finite; what it says names the run.
    """
    path = run.folder(self.workdir) / 'outcome.npz'
    if path.exists():
      return outcomes.load(path)
    try:
      if run.method == ORIGINAL:
        return self._train(cell, run, cell.training)
      if run.method == RETRAIN:
        return self._train(cell, run, cell.rows['retain'])
      return self._unlearn(cell, run, original)
    except fit_lib.NonFiniteLossError as error:
      raise fit_lib.NonFiniteLossError(f'{run.title}: {error}') from error

  def drop_programs(self) -> None:
    """Forgets compiled programs, also those of what `at` and others gave."""
    self._programs.clear()

  def params(self, run: Run) -> Params:
    """Returns the model that a finished run left."""
    folder = run.folder(self.workdir) / 'model'
    return checkpoint.load_params(folder, self.like())

  def like(self) -> Params:
    """Returns parameters of the shape of the network's."""
    return self.task.classifier.init_fn(jax.random.key(0))

  def method(self, name: str) -> UnlearningMethod:
    """Returns a method by its name in the registry; built once."""
    return self._program(name).method

  def _program(self, method: str) -> fit_lib.Program:
    """Returns the program of a method; equal ones are compiled once."""
    key = registry.spec(method).build, repr(self.presets.get(method))
    if key not in self._programs:
      self._programs[key] = fit_lib.Program(self._build(method))
    return self._programs[key]

  def _build(self, method):
    spec, problem = registry.spec(method), self.task.problem
    if spec.preset is None:
      recipe = self.task.recipe
      return spec.build(
        problem,
        self.task.training.optimizer(recipe.optimizer()),
        augment_fn=self.task.augment_fn(),
        max_norm=recipe.dp_max_norm,
        noise_multiplier=recipe.dp_noise_multiplier,
      )
    preset = self.presets[method]
    tx = self.task.training.optimizer(preset.optimizer())
    return spec.build(problem, tx, **preset.options)

  def _train(self, cell, run, rows):
    """Trains from scratch on `rows`: the original model, or a retrained one."""
    recipe, program = self.task.recipe, self._program(RETRAIN)
    init_fn = self.task.classifier.init_fn
    state = loop.init(program.method, init_fn(run.key()), run.key())
    state = set_total_steps(state, recipe.steps(len(rows)))

    def epoch_batches(epoch):
      rng = np.random.default_rng([*run.entropy(), epoch])
      return None, batches.one_pass(rows, recipe.batch_size, rng)

    result = self._fit(cell, run, program, state, recipe.epochs, epoch_batches)
    return self._finish(cell, run, program, result, result.state.params)

  def _unlearn(self, cell, run, original):
    """Runs a method from the original model, by its preset."""
    spec, preset = registry.spec(run.method), self.presets[run.method]
    program = self._program(run.method)
    state = loop.init(program.method, original, run.key())
    forget, retain = cell.rows['forget'], cell.rows['retain']

    def epoch_batches(epoch):
      return spec.epoch_batches(
        preset, forget, retain, epoch=epoch, seed=run.entropy()
      )

    steps = sum(
      fit_lib.steps_of(epoch_batches(e)) for e in range(preset.epochs)
    )
    state = set_total_steps(state, steps)
    result = self._fit(
      cell,
      run,
      program,
      state,
      preset.epochs,
      epoch_batches,
      prepare_batches=spec.prepare_batches(preset, forget, retain),
      keep=spec.rewinds,
    )
    params = result.state.params
    if spec.rewinds and preset.epochs:
      params = self._rewind(cell, result)
    return self._finish(cell, run, program, result, params)

  def _fit(self, cell, run, program, state, epochs, epoch_batches, **options):
    return fit_lib.fit(
      program,
      state,
      epochs,
      epoch_batches,
      self.task.data.training(run.entropy()),
      observe=functools.partial(self._observe, cell),
      on_epoch=self.show_progress(run.title, epochs),
      checkpoints=run.folder(self.workdir) / 'running',
      checkpoint_every_s=self._checkpoint_every_s,
      layout=self.task.device_layout,
      **options,
    )

  def _finish(self, cell, run, program, result, params):
    """Evaluates, and writes model and outcome."""
    progress = result.progress
    cost = {
      'compile_s': program.compile_s,
      'run_s': progress.run_s,
      'peak_bytes': program.peak_bytes(),
      'optimizer_steps': progress.steps,
      'examples': progress.examples,
    }
    made = self.evaluate(cell, run, params, progress.curves, cost)
    description = self.task.description(cell.split_seed)
    description |= {
      'method': run.method,
      'seed': run.seed,
      'replicate': run.replicate,
      'forget': cell.request,
      'forget_hash': cell.subsets.forget_hash,
      'cost': cost,
    }
    folder = run.folder(self.workdir)
    checkpoint.save_params(folder / 'model', params, description)
    outcomes.save(made, folder / 'outcome.npz')
    shutil.rmtree(folder / 'running', ignore_errors=True)
    return made

  def evaluate(
    self,
    cell: Cell,
    run: Run,
    params: Params,
    curves: Mapping[str, Any],
    cost: Mapping[str, float],
  ) -> Outcome:
    """Returns the logits of a model on all sets of a cell."""
    return Outcome(
      method=run.method,
      seed=run.seed,
      replicate=run.replicate,
      logits={
        name: self.task.logits(params, rows).astype(np.float32)
        for name, rows in cell.rows.items()
      },
      curves={k: np.asarray(v, np.float64) for k, v in curves.items()},
      cost=dict(cost),
    )

  def _predictions(self, params, rows):
    """Returns labels and predictions of `rows`."""
    label = self.task.label[rows]
    return label, self.task.logits(params, rows).argmax(-1)

  def _observe(self, cell, params):
    """Values for the learning curves, without classes forgotten whole."""
    label, validation = self.task.label, cell.rows['validation']
    forgotten = np.isin(label[validation], cell.subsets.forgotten_classes)
    validation = validation[~forgotten]
    every = max(1, -(-len(validation) // _OBSERVED_VALIDATION))
    validation = validation[::every]
    values = {'validation': accuracy(*self._predictions(params, validation))}
    if len(cell.rows['forget']):
      pair = self._predictions(params, cell.rows['forget'])
      values['forget'] = accuracy(*pair)
    return {f'{name}_accuracy': value for name, value in values.items()}

  def _rewind(self, cell, result):
    """Returns the kept parameters that SCRUB+R chooses.

    The held-out set is the validation set, weighted to the class mix of the
    forget set.
    """
    forget_errors = 1 - np.asarray(result.progress.curves['forget_accuracy'])
    label, predictions = self._predictions(
      result.state.params, cell.rows['validation']
    )
    held_out = matched_accuracy(
      label, predictions, self.task.label[cell.rows['forget']]
    )
    if np.isnan(held_out):
      raise InputError(
        'scrub_rewind: the validation set must have recordings of the '
        'forgotten classes and has none.'
      )
    epoch = rewind(forget_errors[1:], 1 - held_out)
    return jax.tree.map(lambda leaf: leaf[epoch], result.kept)
