"""One run of one method: from parameters to an outcome on disk.

A run leaves its model and its outcome in a folder of its own. An outcome that
is there is not made again; a run that was killed goes on from its latest
checkpoint; so the same command always ends in the same results.
"""

from collections.abc import Mapping, Sequence
import copy
import functools
import pathlib
import shutil
from typing import Any
import zlib

import jax
import numpy as np

from experiments import course as course_lib
from experiments import learning
from experiments.cells import Cell
from experiments.cells import Run
from experiments.cli import ShowProgress
from experiments.task import Task
from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import members
from unlearn_jax.training import checkpoint
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.types import Params, UnlearningMethod


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
    program = self._program(run.method)
    course = self._course(cell, run, original)
    try:
      result = self._fit(
        program,
        course,
        self.task.data.training(run.entropy()),
        observe=functools.partial(learning.observe, self.task, cell),
        on_epoch=self.show_progress(run.title, course.epochs),
        checkpoints=run.folder(self.workdir) / 'running',
      )
    except fit_lib.NonFiniteLossError as error:
      raise fit_lib.NonFiniteLossError(f'{run.title}: {error}') from error
    return self._finish(cell, run, program, result, course.spent_s)

  def can_run_together(self, cells: Sequence[Cell]) -> bool:
    """Says whether runs on these cells can be one program.

    They must take equally many steps, and read the same examples, on one
    device.
    """
    sizes = {tuple(map(len, cell.rows.values())) for cell in cells}
    task = self.task
    is_array = isinstance(task.examples[task.data.input_name], jax.Array)
    return len(sizes) == 1 and is_array and task.device_layout is None

  def make_together(
    self,
    cells: Sequence[Cell],
    runs: Sequence[Run],
    originals: Sequence[Params | None],
  ) -> None:
    """Makes the outcomes of several runs of one method, as one program.

    Args:
      cells: of each run, for which `can_run_together`.
      runs: of one method.
      originals: as `outcome` takes them.

    Raises:
      NonFiniteLossError: if a loss of one of them is not finite.
    """
    program = self._program(runs[0].method, together=True)
    courses = [
      self._course(*each) for each in zip(cells, runs, originals, strict=True)
    ]
    names = ' '.join(run.title for run in runs)
    folder = self.workdir / 'running' / f'{zlib.crc32(names.encode()):08x}'
    course = course_lib.Course(
      members.stack([c.state for c in courses]),
      courses[0].epochs,
      lambda epoch: members.stack_batches([c.batches(epoch) for c in courses]),
      members.stack_batches([c.prepare for c in courses]),
      courses[0].keep,
    )
    result = self._fit(
      program,
      course,
      self.task.data.training(()),
      observe=members.observe_each(
        lambda i, params: learning.observe(self.task, cells[i], params),
        len(runs),
      ),
      on_epoch=self.show_progress(names, course.epochs),
      checkpoints=folder,
    )
    each = members.split(result, len(runs))
    for cell, run, own, its in zip(cells, runs, each, courses, strict=True):
      self._finish(cell, run, program, own, its.spent_s)
    shutil.rmtree(folder, ignore_errors=True)

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

  def _program(self, method: str, together: bool = False) -> fit_lib.Program:
    """Returns the program of a method; equal ones are compiled once."""
    if method == ORIGINAL:  # It is trained as retrained models are.
      method = RETRAIN
    key = registry.spec(method).build, repr(self.presets.get(method)), together
    if key not in self._programs:
      self._programs[key] = (
        members.MembersProgram(self.method(method))
        if together
        else fit_lib.Program(self._build(method))
      )
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

  def _course(self, cell, run, original):
    return course_lib.of_run(
      self.task,
      self.method(run.method),
      self.presets.get(run.method),
      cell,
      run,
      original,
    )

  def _fit(self, program, course, examples, **options):
    return fit_lib.fit(
      program,
      course.state,
      course.epochs,
      course.batches,
      examples,
      prepare_batches=course.prepare,
      keep=course.keep,
      checkpoint_every_s=self._checkpoint_every_s,
      layout=self.task.device_layout,
      **options,
    )

  def _finish(self, cell, run, program, result, spent_s):
    """Evaluates, and writes model and outcome."""
    progress, params = result.progress, result.state.params
    if result.kept and progress.epochs:
      params = learning.rewound(self.task, cell, result)
    cost = {
      'compile_s': program.compile_s,
      'run_s': progress.run_s + spent_s,
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
