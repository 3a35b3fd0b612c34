"""Metrics of keyword spotters that take the models themselves."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

import jax.numpy as jnp

from experiments.kws import Cell
from experiments.kws import Task
from unlearn_jax.evaluation import internals
from unlearn_jax.evaluation import relearn as relearn_lib
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.relearn import Relearning
from unlearn_jax.types import Params


def with_inner(
  task: Task,
  cell: Cell,
  outcomes: Sequence[Outcome],
  models: Mapping[tuple[str, int], Params],
  relearn: Callable[[Params], Relearning] | None = None,
) -> list[Outcome]:
  """Returns the outcomes of one seed with what takes the models themselves.

  Args:
    task: corpus and network.
    cell: of the seed.
    outcomes: of its runs.
    models: parameters of all of them, by (method, replicate).
    relearn: fine-tunes on the forget set, see `relearner`; None leaves it out.
  """
  retrained = [name for name in models if name[0] == RETRAIN]
  layers = functools.partial(_layers, task, cell)
  found = internals.internals(models, retrained, layers, relearn)
  return [
    dataclasses.replace(o, inner=found[o.method, o.replicate]) for o in outcomes
  ]


def _layers(task, cell, params, part):
  rows = cell.rows[part]
  every = max(1, -(-len(rows) // internals.MOST_EXAMPLES))
  return task.layers(params, rows[::every])


def relearner(task: Task, cell: Cell) -> Callable[[Params], Relearning]:
  """Returns what learns the forget set of a cell again."""
  problem = task.problem
  relearn = relearn_lib.make_relearn(problem.loss_fn, problem.predict_fn)
  rows = jnp.asarray(cell.rows['forget'])
  forget = {name: x[rows] for name, x in task.examples.items()}
  return functools.partial(relearn, forget=forget, seed=cell.seed)
