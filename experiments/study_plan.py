"""What a study will cost, before it begins."""

import collections
import time

import jax
import numpy as np

from experiments.parts import Part
from experiments.parts import STAGES
from experiments.runs import Runner
from experiments.study import Study
from unlearn_jax.datasets import batches
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import registry
from unlearn_jax.populations import search_plan
from unlearn_jax.reporting.tables import Cell
from unlearn_jax.reporting.tables import Table
from unlearn_jax.training import fit
from unlearn_jax.training import loop

# Seconds on two cores of an AMD EPYC, about: what a program takes to compile,
# and what a model takes to be scored.
_COMPILE_S, _SCORE_S = 15.0, 0.5


def seconds_per_example(runner: Runner, rows: np.ndarray) -> float:
  """Times one call of the training loop, after compiling it.

  Args:
    runner: of the study.
    rows: of a training set.
  """
  recipe, program = runner.task.recipe, fit.Program(runner.method(RETRAIN))
  made = batches.repeat(
    rows, recipe.batch_size, fit.STEPS_PER_CALL, np.random.default_rng(0)
  )
  examples = runner.task.data.training((0,))
  seconds = []
  for _ in range(2):
    params = runner.task.classifier.init_fn(jax.random.key(0))
    state = loop.init(program.method, params, jax.random.key(0))
    call = next(iter(examples.calls([(None, made)], 0)))
    start = time.perf_counter()
    program(loop.run, state, *call)
    seconds.append(time.perf_counter() - start)
  return seconds[-1] / float(np.sum(made.mask))


def examples(study: Study, part: Part, epochs: int) -> int:
  """Returns how many examples a part looks at, repeats counted, about.

  Args:
    study: of the part.
    part: of seed 0, or like one.
    epochs: of training.
  """
  cell = study.cell(part.request, 0)
  rows = cell.rows['forget'], cell.rows['retain']
  if part.block is None:
    return epochs * sum(map(len, rows))
  spec, preset = registry.spec(part.method), part.block.presets[part.method]
  if not preset.epochs:  # A search makes the pass once.
    return _count(spec.prepare_batches(preset, *rows))
  longest = preset.epochs
  if part.stage == 'search':
    longest = search_plan.visits(preset)[-1]
  count = sum(
    _count(spec.epoch_batches(preset, *rows, epoch=epoch, seed=(0,)))
    for epoch in range(longest)
  )
  if part.stage == 'search':
    count *= search_plan.draws(preset, study.settings)
    count *= len(part.block.tuned_on)
  return count


def _count(sides):
  return int(sum(side.mask.sum() for side in sides if side is not None))


def plan(study: Study, rate: float, epochs: int) -> tuple[Table, float]:
  """Returns what is left to do, by request, and the seconds that it may take.

  An example is taken to cost what it does in training: a method with a teacher
  costs up to twice as much, one that trains few layers less. A search and the
  runs of a method on a request compile a program of their own.

  Args:
    study: what to do.
    rate: seconds an example.
    epochs: of training.
  """
  left: dict[str, collections.Counter[str]] = {}
  seconds: dict[str, float] = collections.defaultdict(float)
  known: dict[tuple[str, str, str], int] = {}
  for part in study.parts():
    group = str(part.request or 'no request')
    counts = left.setdefault(group, collections.Counter())
    if part.is_done():
      counts['done'] += 1
      continue
    counts[part.stage] += 1
    key = group, part.stage, part.method
    scored, programs = 1, int(part.block is not None)
    if part.block is not None and part.stage == 'search':
      programs = len(part.block.tuned_on)
      scored = study.settings * programs
    seconds[group] += _SCORE_S * scored
    if key not in known:
      known[key] = examples(study, part, epochs)
      seconds[group] += _COMPILE_S * programs
    seconds[group] += known[key] * rate
  header = ('request', 'done', *STAGES, 'minutes')
  rows = [
    (group, *(str(counts[name]) for name in header[1:-1]))
    for group, counts in left.items()
  ]
  table = Table(
    header,
    tuple(
      tuple(map(Cell, (*row, f'{seconds[row[0]] / 60:.1f}'))) for row in rows
    ),
  )
  return table, sum(seconds.values())
