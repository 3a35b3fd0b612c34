"""Several runs of one method as one program, driven by `training.fit` as one.

Of each run there is what there would be had it run alone: its model, its
curves and its share of the time. They must take equally many steps. Arrays of
batches and metrics are [steps, runs, ...], those of states [runs, ...].
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.populations import program
from unlearn_jax.training import fit
from unlearn_jax.training import loop
from unlearn_jax.training.fit import EpochBatches
from unlearn_jax.training.fit import FitResult
from unlearn_jax.types import UnlearningMethod


class MembersProgram(fit.Program):
  """The loop of one method over several runs."""

  def __init__(
    self, method: UnlearningMethod, strategy: program.Strategy = 'auto'
  ):
    """Compiles nothing yet; for `strategy`, see `program.over_members`."""
    super().__init__(method)
    self._strategy = program.resolve(strategy)

  def lower(self, fun: Any, *args: Any) -> jax.stages.Lowered:
    """Returns `fun` of all runs, not compiled yet."""
    return _run.lower(fun, self.method, *args, strategy=self._strategy)

  def shapes(self, fun: Any, *args: Any) -> Any:
    """Returns the shapes of `fun` of all runs, without computing it."""
    return _run.eval_shape(fun, self.method, *args, strategy=self._strategy)


@functools.partial(
  jax.jit,
  static_argnames=('fun', 'method', 'strategy'),
  donate_argnames='states',
)
def _run(fun, method, states, forget, retain, examples, *, strategy):
  batches = jax.tree.map(_swap_first_two, (forget, retain))
  found = program.run(
    fun, method, states, *batches, examples, strategy=strategy
  )
  if fun is loop.prepare:
    return found
  states, metrics = found
  return states, jax.tree.map(_swap_first_two, metrics)


def _swap_first_two(x):
  return jnp.swapaxes(x, 0, 1)


def stack(trees: Sequence[Any]) -> Any:
  """Returns what `split` takes apart: leaves [runs, ...]."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack_batches(made: Sequence[EpochBatches]) -> EpochBatches:
  """Puts the batches of runs side by side.

  Args:
    made: of each run, forget and retain batches.

  Raises:
    ValueError: if they are not equally many, or equally large.
  """
  shapes = {
    tuple(None if side is None else side.rows.shape for side in sides)
    for sides in made
  }
  if len(shapes) > 1:
    raise ValueError(
      f'runs must have batches of one shape, got {sorted(map(str, shapes))}.'
    )
  forget, retain = (
    jax.tree.map(lambda *arrays: np.stack(arrays, 1), *sides)
    for sides in zip(*made, strict=True)
  )
  return forget, retain


def observe_each(observe: Any, runs: int) -> Any:
  """Returns `observe` for `fit`: maps stacked parameters to values [runs].

  Args:
    observe: maps the number of a run and its parameters to named values.
    runs: how many there are.
  """

  def of_all(params):
    each = [observe(i, _member(params, i)) for i in range(runs)]
    return {name: np.array([e[name] for e in each]) for name in each[0]}

  return of_all


def split(result: FitResult, runs: int) -> list[FitResult]:
  """Takes apart what `fit` returns.

  Args:
    result: of all runs.
    runs: how many there are.

  Returns:
    what each would have returned, alone; seconds and examples are equal shares.
  """
  return [_result_of(result, i, runs) for i in range(runs)]


def _member(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _result_of(result, i, runs):
  progress = dataclasses.replace(
    result.progress,
    curves={
      name: [value[i] for value in values]
      for name, values in result.progress.curves.items()
    },
    run_s=result.progress.run_s / runs,
    wait_s=result.progress.wait_s / runs,
    examples=result.progress.examples // runs,
  )
  kept = jax.tree.map(lambda x: x[:, i], result.kept)
  return FitResult(_member(result.state, i), kept, progress)
