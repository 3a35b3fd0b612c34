"""Searches the settings of a method: every method with the same budget.

A search tries so many settings: points of the method's ranges, at several
numbers of epochs. Under a constant learning rate one run visits them all on its
way; under a schedule, which depends on the length of the run, each draw has a
length of its own. All draws run as one program: optimizer and schedule are
numbers in its state.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import time
from typing import Any

import jax
import numpy as np
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.methods import search_space
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.spec import Problem
from unlearn_jax.populations import program
from unlearn_jax.populations import search_plan
from unlearn_jax.populations.sweep import sweep
from unlearn_jax.training import loop
from unlearn_jax.training.fit import steps_of
from unlearn_jax.types import Batch, Params

ScoreFn = Callable[[Params], Mapping[str, float]]
_TOTAL = 'total_steps'


@dataclasses.dataclass(frozen=True)
class Trial:
  """A setting and what came of it.

  Attributes:
    preset: the setting.
    values: what `score_fn` says of the model.
    examples: how many the run looked at, repeats counted.
  """

  preset: Preset
  values: Mapping[str, float]
  examples: int


@dataclasses.dataclass(frozen=True)
class Search:
  """What a search found.

  Attributes:
    trials: in the order of the draws; the first draw is the preset, at each
      length that is tried.
    compile_s: seconds of compiling.
    run_s: seconds of the runs.
    score_s: seconds of scoring.
  """

  trials: Sequence[Trial]
  compile_s: float
  run_s: float
  score_s: float

  def best(
    self, by: str, *, preset: Preset | None = None, floor: float = 0.0
  ) -> Trial:
    """Returns the trial with the least value, the earliest of equal ones.

    Args:
      by: name of the value; nan is worse than any.
      preset: stays if its value is at most the floor.
      floor: values below it tell no settings apart, such as the gap between
        two retrained models.

    Raises:
      ValueError: if no trial has the value.
    """
    allowed = [t for t in self.trials if not np.isnan(t.values[by])]
    if not allowed:
      raise ValueError(f'no trial has {by}.')
    for trial in allowed:
      if trial.preset == preset and trial.values[by] <= floor:
        return trial
    return min(allowed, key=lambda trial: trial.values[by])


def mean(searches: Sequence[Search]) -> Search:
  """Returns one search for several forget sets: means of values, sums of time.

  Args:
    searches: of one method, preset, seed and number of settings, at least one.

  Raises:
    ValueError: if their settings differ.
  """
  first, *others = searches
  for other in others:
    if [t.preset for t in other.trials] != [t.preset for t in first.trials]:
      raise ValueError('searches must be of the same settings, got others.')
  trials = [
    Trial(
      same[0].preset,
      {
        name: float(np.mean([trial.values[name] for trial in same]))
        for name in same[0].values
      },
      round(np.mean([trial.examples for trial in same])),
    )
    for same in zip(*(each.trials for each in searches), strict=True)
  ]
  compile_s, run_s, score_s = (
    sum(getattr(each, part) for each in searches)
    for part in ('compile_s', 'run_s', 'score_s')
  )
  return Search(trials, compile_s, run_s, score_s)


def search(
  name: str,
  spec: MethodSpec,
  problem: Problem,
  preset: Preset,
  params: Params,
  rows: tuple[np.ndarray, np.ndarray],
  examples: Batch,
  score_fn: ScoreFn,
  *,
  settings: int = 32,
  seed: int = 0,
  strategy: program.Strategy = 'auto',
) -> Search:
  """Tries settings of a method on one model and one forget set.

  What `MethodSpec.rewinds` says is left out: each visit is scored as it is.

  Args:
    name: of the method, in `search_space`.
    spec: its row.
    problem: what it may know of the model.
    preset: the first setting, and all that is not searched.
    params: of the original model.
    rows: of the forget and of the retain set in `examples`, [n] each.
    examples: arrays [examples, ...].
    score_fn: maps parameters to named values, such as a gap to retraining.
    settings: how many to try, at least 1.
    seed: of the draws, the order of the batches and all that is random in the
      method.
    strategy: see `sweep`.

  Raises:
    ValueError: if `settings` is less than 1.
  """
  if settings < 1:
    raise ValueError(f'settings must be >= 1, got {settings}.')
  runs = _Runs(
    name,
    spec,
    problem,
    preset,
    params,
    rows,
    examples,
    score_fn,
    seed,
    strategy,
  )
  trials = runs.trials_of(
    search_plan.plan(name, preset, settings, seed, runs.has_schedule())
  )
  return Search(trials[:settings], runs.compile_s, runs.run_s, runs.score_s)


@dataclasses.dataclass
class _Runs:
  """Runs draws, and adds up what that costs."""

  name: str
  spec: MethodSpec
  problem: Problem
  preset: Preset
  params: Params
  rows: tuple[np.ndarray, np.ndarray]
  examples: Batch
  score_fn: ScoreFn
  seed: int
  strategy: program.Strategy
  compile_s: float = 0.0
  run_s: float = 0.0
  score_s: float = 0.0

  def has_schedule(self) -> bool:
    """Says whether the state of the method knows the length of a run."""
    method = self._build(self.preset.optimizer())
    state = jax.eval_shape(
      lambda: loop.init(method, self.params, jax.random.key(0))
    )
    return bool(optax.tree_utils.tree_get_all_with_path(state, _TOTAL))

  def trials_of(self, plan: search_plan.Plan) -> list[Trial]:
    """Runs and scores all draws."""
    preset, at = self.preset, search_plan.visits(self.preset)
    method = self._build(
      preset.searched_optimizer() if at else preset.optimizer()
    )
    sides, steps, seen = _lay_out(self.spec, preset, self.rows, at, self.seed)
    once: tuple[Any, Any] = (None, None)
    if method.prepare is not None:
      once = self.spec.prepare_batches(preset, *self.rows)
      seen = seen + sum(int(b.mask.sum()) for b in once if b is not None)
    settings = _settings(plan, steps) if at else _values(plan)
    models = self._sweep(method, settings, once, *sides)
    start = time.perf_counter()
    models = jax.tree.map(np.asarray, models)  # At once: a slice costs as much.
    trials = []
    for i, (draw, own) in enumerate(zip(plan.draws, plan.ends, strict=True)):
      for end in range(max(len(at), 1)) if own is None else [own]:
        model = jax.tree.map(lambda x, i=i, end=end: x[i, end], models)
        made = draw.applied(preset, at[end] if at else 0)
        trials.append(Trial(made, dict(self.score_fn(model)), int(seen[end])))
    self.score_s += time.perf_counter() - start
    return trials

  def _build(self, tx):
    options = search_space.as_variables(self.name, self.preset.options)
    return self.spec.build(self.problem, tx, **options)

  def _sweep(self, method, settings, once, forget, retain):
    """Calls `sweep`, compile time apart."""
    key = jax.random.key(self.seed)
    args = self.params, key, settings, once, forget, retain, self.examples
    start = time.perf_counter()
    compiled = sweep.lower(method, *args, strategy=self.strategy).compile()
    self.compile_s += time.perf_counter() - start
    start = time.perf_counter()
    models = jax.block_until_ready(compiled(*args))
    self.run_s += time.perf_counter() - start
    return models


def _values(plan):
  """Returns arrays [draws] of what is drawn."""
  return {
    name: np.float32([draw.values[name] for draw in plan.draws])
    for name in plan.draws[0].values
  }


def _settings(plan, steps):
  """Returns arrays [draws] of all that tells the runs apart."""
  last = len(steps) - 1
  return _values(plan) | {
    'is_sgd': np.float32([d.algorithm == 'sgd' for d in plan.draws]),
    'is_cosine': np.float32([d.schedule == 'cosine' for d in plan.draws]),
    _TOTAL: np.float32([steps[last if e is None else e] for e in plan.ends]),
  }


def _lay_out(spec, preset, rows, at, seed):
  """Lays out all visits.

  Returns:
    forget and retain batches [visits, steps, batch], None where not needed;
    the steps [visits] and the examples [visits] until each.
  """
  if not at:
    return (None, None), np.zeros(1, int), np.zeros(1, int)
  epochs = [
    spec.epoch_batches(preset, *rows, epoch=epoch, seed=(seed,))
    for epoch in range(at[-1])
  ]
  steps = np.cumsum([steps_of(sides) for sides in epochs])[np.array(at) - 1]
  seen = np.cumsum(
    [sum(int(b.mask.sum()) for b in s if b is not None) for s in epochs]
  )[np.array(at) - 1]
  longest = int(np.diff(steps, prepend=0).max())

  def side(k, batch_size):
    if epochs[0][k] is None:
      return None
    parts = []
    for low, high in itertools.pairwise((0, *at)):
      joined = batches.concatenate([e[k] for e in epochs[low:high]], batch_size)
      parts.append(batches.pad_steps(joined, longest))
    return IndexBatches(*map(np.stack, zip(*parts, strict=True)))

  sides = side(0, preset.forget_batch), side(1, preset.retain_batch)
  return sides, steps, seen
