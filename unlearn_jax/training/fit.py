"""Drives a method for many epochs: observe, checkpoint, resume, measure.

Training, retraining and unlearning are all driven here. An epoch is cut into
calls of the compiled loop of a fixed number of steps, so one program serves
training sets and requests of every size, and a non-finite loss is seen soon.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.training import checkpoint
from unlearn_jax.training import loop
from unlearn_jax.types import Batch, UnlearningMethod

EpochBatches = tuple[IndexBatches | None, IndexBatches | None]

STEPS_PER_CALL = 16


class NonFiniteLossError(RuntimeError):
  """A loss became infinite or not a number; says at which step."""


class Program:
  """The loop of one method, compiled once a shape, compile time apart."""

  def __init__(self, method: UnlearningMethod):
    """Compiles nothing yet."""
    self.method = method
    self.compile_s = 0.0
    self._compiled: dict[Any, Any] = {}

  def __call__(self, fun: Any, *args: Any) -> tuple[Any, float]:
    """Calls `fun`, jitted as fun(method, *args), and waits for the result.

    Returns:
      the result, and the seconds that it took without compiling.
    """
    leaves, tree = jax.tree.flatten(args)
    key = (fun, tree, tuple((x.shape, str(x.dtype)) for x in leaves))
    if key not in self._compiled:
      start = time.perf_counter()
      self._compiled[key] = fun.lower(self.method, *args).compile()
      self.compile_s += time.perf_counter() - start
    start = time.perf_counter()
    result = jax.block_until_ready(self._compiled[key](*args))
    return result, time.perf_counter() - start

  def peak_bytes(self) -> int:
    """Returns what its largest program holds: arguments, results, scratch."""
    sizes = [0]
    for compiled in self._compiled.values():
      stats = compiled.memory_analysis()
      if stats is not None:  # A backend need not tell.
        whole = stats.argument_size_in_bytes + stats.output_size_in_bytes
        whole += stats.temp_size_in_bytes - stats.alias_size_in_bytes
        sizes.append(whole)
    return max(sizes)


@dataclasses.dataclass
class Progress:
  """What a run has measured so far; JSON can hold it.

  Attributes:
    curves: values after each epoch, the first before any step; after the edit
      of a rule that takes no steps.
    run_s: seconds in the compiled loop, without compiling or observing.
    examples: examples that went forward and backward.
    steps: optimizer steps.
  """

  curves: dict[str, list[float]] = dataclasses.field(default_factory=dict)
  run_s: float = 0.0
  examples: int = 0
  steps: int = 0

  def add(self, values: dict[str, float]) -> None:
    """Appends one value to each curve."""
    for name, value in values.items():
      self.curves.setdefault(name, []).append(float(value))


@dataclasses.dataclass(frozen=True)
class FitResult:
  """A finished run.

  Attributes:
    state: after the last step.
    kept: parameters after each epoch, leaves [epochs, ...]; () if not kept.
    progress: curves and costs.
  """

  state: loop.RunState
  kept: Any
  progress: Progress


def fit(
  program: Program,
  state: loop.RunState,
  epochs: int,
  epoch_batches: Callable[[int], EpochBatches],
  examples: Batch,
  *,
  prepare_batches: EpochBatches = (None, None),
  observe: Callable[[Any], dict[str, float]] | None = None,
  on_epoch: Callable[[int, Progress], None] | None = None,
  checkpoints: pathlib.Path | None = None,
  checkpoint_every_s: float = 10.0,
  keep: bool = False,
) -> FitResult:
  """Runs `epochs` epochs from `state`, or from its latest checkpoint.

  Args:
    program: the method; share it among runs.
    state: from `loop.init`; left usable.
    epochs: at least 0.
    epoch_batches: maps an epoch, from 0, to its forget and retain batches. It
      must depend on the epoch alone, or a resumed run would differ.
    examples: arrays [examples, ...] on the device.
    prepare_batches: one pass over each set, for a method that has `prepare`.
    observe: maps parameters to named values for the learning curves; its time
      does not count.
    on_epoch: called with the epochs done and the progress.
    checkpoints: a folder for the latest state; None writes nothing.
    checkpoint_every_s: least time between two checkpoints.
    keep: also return the parameters after each epoch.

  Raises:
    NonFiniteLossError: with the metric and the step.
    ValueError: if a checkpoint is there of more epochs.
  """
  kept = _empty_kept(state.params, epochs) if keep else ()
  # A copy, since the loop donates its state.
  tree = jax.tree.map(jnp.copy, {'state': state, 'kept': kept})
  with contextlib.ExitStack() as stack:
    store = None
    if checkpoints is not None:
      store = checkpoint.RunCheckpoints(checkpoints)
      stack.callback(store.close)
    found = None
    if store:  # What `prepare` adds to the state is in every checkpoint.
      prepared = jax.eval_shape(
        lambda *args: loop.prepare(program.method, *args),
        state,
        *prepare_batches,
        examples,
      )
      found = store.restore({'state': prepared, 'kept': kept})
    if found is not None:
      done, tree, saved = found
      progress = Progress(**saved)
      if done > epochs:
        raise ValueError(f'epochs must be >= {done}, got {epochs}.')
    else:
      done, progress = 0, Progress()
      if observe:
        progress.add(observe(tree['state'].params))
      if program.method.prepare is not None:
        tree['state'], progress.run_s = program(
          loop.prepare, tree['state'], *prepare_batches, examples
        )
        _check_edit(tree['state'].params)
        if observe and not epochs:
          progress.add(observe(tree['state'].params))
    last_save = time.perf_counter()
    for epoch in range(done, epochs):
      tree['state'] = _run_epoch(
        program, tree['state'], epoch_batches(epoch), examples, progress
      )
      params = tree['state'].params
      if keep:
        tree['kept'] = jax.tree.map(
          lambda k, p, i=epoch: k.at[i].set(p), tree['kept'], params
        )
      if observe:
        progress.add(observe(params))
      if on_epoch:
        on_epoch(epoch + 1, progress)
      due = time.perf_counter() - last_save >= checkpoint_every_s
      if store and due and epoch + 1 < epochs:
        store.save(epoch + 1, tree, dataclasses.asdict(progress))
        last_save = time.perf_counter()
  return FitResult(tree['state'], tree['kept'], progress)


def _empty_kept(params, epochs):
  return jax.tree.map(lambda x: jnp.zeros((epochs, *x.shape), x.dtype), params)


def steps_of(epoch_batches: EpochBatches) -> int:
  """Returns the number of steps of an epoch.

  Raises:
    ValueError: if the two sets have different numbers of steps.
  """
  sizes = {len(b.rows) for b in epoch_batches if b is not None}
  if len(sizes) != 1:
    raise ValueError(f'batches must have the same steps, got {sorted(sizes)}.')
  return sizes.pop()


def _run_epoch(program, state, epoch_batches, examples, progress):
  """Runs the batches of one epoch in calls of `STEPS_PER_CALL` steps."""
  steps = steps_of(epoch_batches)
  padded = -(-steps // STEPS_PER_CALL) * STEPS_PER_CALL
  forget, retain = (
    None if b is None else batches.pad_steps(b, padded) for b in epoch_batches
  )
  losses: dict[str, list[np.ndarray]] = {}
  for first in range(0, padded, STEPS_PER_CALL):
    part = slice(first, first + STEPS_PER_CALL)
    call = [
      None if b is None else IndexBatches(b.rows[part], b.mask[part])
      for b in (forget, retain)
    ]
    (state, metrics), seconds = program(loop.run, state, *call, examples)
    progress.run_s += seconds
    real = min(steps - first, STEPS_PER_CALL)
    for name, values in metrics.items():
      losses.setdefault(name, []).append(np.asarray(values)[:real])
    _check_finite(metrics, progress.steps, real)
    progress.steps += real
    progress.examples += int(sum(b.mask.sum() for b in call if b is not None))
  progress.add(
    {f'train_{name}': np.concatenate(v).mean() for name, v in losses.items()}
  )
  return state


def _check_edit(params):
  if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params)):
    raise NonFiniteLossError(
      'the edited parameters are not finite; make the edit smaller.'
    )


def _check_finite(metrics, first_step, real):
  for name, values in metrics.items():
    bad = np.flatnonzero(~np.isfinite(np.asarray(values)[:real]))
    if bad.size:
      value = float(values[bad[0]])
      raise NonFiniteLossError(
        f'{name} is {value} at step {first_step + int(bad[0]) + 1}; lower the '
        'learning rate.'
      )
