"""Drives a method for many epochs: observe, checkpoint, resume, measure.

Training, retraining and unlearning are all driven here. An epoch is cut into
calls of the compiled loop of a fixed number of steps (one, where crops end with
the longest of a step), so one program serves training sets and requests of
every size, a non-finite loss is seen soon, and after each call there may be a
checkpoint.
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
from unlearn_jax.datasets.batches import Call
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.datasets.crops import Examples
from unlearn_jax.training import loop
from unlearn_jax.training.layout import Layout
from unlearn_jax.training.progress import Progress
from unlearn_jax.training.progress import Saver
from unlearn_jax.types import Batch, UnlearningMethod

EpochBatches = Call  # The same of a whole epoch.

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
      self._compiled[key] = self.lower(fun, *args).compile()
      self.compile_s += time.perf_counter() - start
    start = time.perf_counter()
    result = jax.block_until_ready(self._compiled[key](*args))
    return result, time.perf_counter() - start

  def lower(self, fun: Any, *args: Any) -> jax.stages.Lowered:
    """Returns fun(method, *args), not compiled yet."""
    return fun.lower(self.method, *args)

  def shapes(self, fun: Any, *args: Any) -> Any:
    """Returns the shapes of fun(method, *args), without computing it."""
    return fun.eval_shape(self.method, *args)

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
  examples: Batch | Examples,
  *,
  prepare_batches: EpochBatches = (None, None),
  observe: Callable[[Any], dict[str, float]] | None = None,
  on_epoch: Callable[[int, Progress], None] | None = None,
  checkpoints: pathlib.Path | None = None,
  checkpoint_every_s: float = 10.0,
  keep: bool = False,
  layout: Layout | None = None,
) -> FitResult:
  """Runs `epochs` epochs from `state`, or from its latest checkpoint.

  Args:
    program: the method; share it among runs.
    state: from `loop.init`; left usable.
    epochs: at least 0.
    epoch_batches: maps an epoch, from 0, to its forget and retain batches. It
      must depend on the epoch alone, or a resumed run would differ.
    examples: arrays [examples, ...] on the device; `crops.Examples` where crops
      are drawn anew each epoch, `streaming.Stream` where they are on disk. The
      same crops give the same results, wherever they come from.
    prepare_batches: one pass over each set, for a method that has `prepare`,
      which sees the crops of the first epoch.
    observe: maps parameters to named values for the learning curves; its time
      does not count.
    on_epoch: called with the epochs done and the progress.
    checkpoints: a folder for the latest state; None writes nothing.
    checkpoint_every_s: least time between two checkpoints, of which there may
      be one after each call of the compiled loop.
    keep: also return the parameters after each epoch.
    layout: of state and batches on several devices; the examples must lie on
      all of them. None is one device. A checkpoint of one layout goes on in
      another.

  Raises:
    NonFiniteLossError: with the metric and the step.
    ValueError: if a checkpoint is there of more epochs.
  """
  if isinstance(examples, dict):
    examples = Examples(examples)
  kept = _empty_kept(state.params, epochs) if keep else ()
  # A copy, since the loop donates its state.
  tree = jax.tree.map(jnp.copy, {'state': state, 'kept': kept})
  if layout is not None:
    tree = layout.state(tree)
    prepare_batches = layout.batches(prepare_batches)
  with contextlib.ExitStack() as stack:
    saver = Saver(checkpoints, checkpoint_every_s)
    stack.callback(saver.close)
    found = None
    if checkpoints is not None:  # Each holds what `prepare` adds to the state.
      prepared = jax.eval_shape(lambda x: x, state)
      if program.method.prepare is not None:
        args = state, *prepare_batches, examples.at(0)
        prepared = program.shapes(loop.prepare, *args)
      like = {'state': prepared, 'kept': kept}
      found = saver.restore(layout.state(like) if layout else like)
    if found is not None:
      tree, progress = found
    else:
      progress = Progress()
      if observe:
        progress.add(observe(tree['state'].params))
      if program.method.prepare is not None:
        tree['state'], progress.run_s = program(
          loop.prepare, tree['state'], *prepare_batches, examples.at(0)
        )
        if layout is not None:
          tree = layout.state(tree)
        _check_edit(tree['state'].params)
        if observe and not epochs:
          progress.add(observe(tree['state'].params))
    begun = progress.epochs + (progress.calls > 0)
    if begun > epochs:
      raise ValueError(f'epochs must be >= {begun}, got {epochs}.')
    while (epoch := progress.epochs) < epochs:
      _run_epoch(
        program, tree, epoch_batches(epoch), examples, progress, saver, layout
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
      if epoch + 1 < epochs:
        saver.save(tree, progress)
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


def _cut(epoch_batches: EpochBatches, steps_per_call: int) -> list[Call]:
  """Cuts an epoch into calls of so many steps, the last padded."""
  calls = -(-steps_of(epoch_batches) // steps_per_call)

  def parts(side):
    if side is None:
      return [None] * calls
    side = batches.pad_steps(side, calls * steps_per_call)
    shape = calls, steps_per_call, *side.rows.shape[1:]
    return [
      IndexBatches(rows, mask)
      for rows, mask in zip(
        side.rows.reshape(shape), side.mask.reshape(shape), strict=True
      )
    ]

  forget, retain = map(parts, epoch_batches)
  return list(zip(forget, retain, strict=True))


def _run_epoch(program, tree, epoch_batches, examples, progress, saver, layout):
  """Runs what is left of an epoch, call after call."""
  # Crops of a call are equally long.
  steps_per_call = 1 if examples.in_buckets else STEPS_PER_CALL
  steps, calls = steps_of(epoch_batches), _cut(epoch_batches, steps_per_call)
  left = calls[progress.calls :]
  with contextlib.closing(examples.calls(left, progress.epochs)) as made:
    for index in left:
      start = time.perf_counter()
      call = next(made)
      if layout is not None:
        call = *layout.batches(call[:2]), call[2]
      progress.wait_s += time.perf_counter() - start
      (tree['state'], metrics), seconds = program(
        loop.run, tree['state'], *call
      )
      del call  # Its memory may be of use for the next.
      if layout is not None:  # The compiler may have chosen another.
        tree['state'] = layout.state(tree['state'])
      progress.run_s += seconds
      done = progress.calls * steps_per_call
      real = min(steps - done, steps_per_call)
      _check_finite(metrics, progress.steps, real)
      for name, values in metrics.items():
        values = np.asarray(values)[:real].tolist()
        progress.losses.setdefault(name, []).extend(values)
      progress.steps += real
      masks = [side.mask for side in index if side is not None]
      progress.examples += int(sum(mask.sum() for mask in masks))
      progress.calls += 1
      saver.save(tree, progress)
  progress.end_epoch()


def _check_edit(params):
  if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params)):
    raise NonFiniteLossError(
      'the edited parameters are not finite; make the edit smaller.'
    )


def _check_finite(metrics, first_step, real):
  for name, values in metrics.items():
    values = np.asarray(values)[:real]
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
      raise NonFiniteLossError(
        f'{name} is {values[tuple(bad[0])]} at step '
        f'{first_step + int(bad[0, 0]) + 1}; lower the learning rate.'
      )
