"""Runs a method over batches with `jax.lax.scan`: training, unlearning, all.

The key of step k is `fold_in(state.key, k)`, so a run cut into pieces, at any
step, gives bit for bit what one call gives.
"""

from collections.abc import Callable
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from unlearn_jax.datasets import batches
from unlearn_jax.types import (
  Batch,
  MethodState,
  Metrics,
  Params,
  UnlearningMethod,
)


class RunState(flax.struct.PyTreeNode):
  """Everything a run needs to go on: arrays only, so Orbax can save it."""

  step: jax.Array
  params: Params
  method_state: MethodState
  key: jax.Array


def init(method: UnlearningMethod, params: Params, key: jax.Array) -> RunState:
  """Copies `params`, since `run` donates its state."""
  init_key, run_key = jax.random.split(key)
  return RunState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.map(jnp.copy, params),
    method_state=method.init(params, init_key),
    key=run_key,
  )


def step(
  method: UnlearningMethod,
  state: RunState,
  forget: Batch | None,
  retain: Batch | None,
) -> tuple[RunState, Metrics]:
  """Takes one step on one forget and one retain batch."""
  key = jax.random.fold_in(state.key, state.step)
  params, method_state, metrics = method.update(
    state.params, state.method_state, forget, retain, key
  )
  state = state.replace(
    step=state.step + 1, params=params, method_state=method_state
  )
  return state, metrics


def fold(
  fun: Callable[[Any, Batch], Any],
  initial: Any,
  stacked: Any,
  examples: Batch | None = None,
) -> Any:
  """Folds `fun` (carry, batch) -> carry over stacked batches."""

  def body(carry, batch):
    return fun(carry, _gather(batch, examples)), None

  return jax.lax.scan(body, initial, stacked)[0]


def fold_sum(
  fun: Callable[[Batch], Any], stacked: Any, examples: Batch | None = None
) -> Any:
  """Adds up `fun` (batch) -> tree over stacked batches."""

  def of(batch):
    return fun(_gather(batch, examples))

  first = jax.tree.map(lambda x: x[0], stacked)
  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of, first)
  )
  return fold(
    lambda total, batch: jax.tree.map(jnp.add, total, fun(batch)),
    zeros,
    stacked,
    examples,
  )


def _gather(batch, examples):
  indexed = isinstance(batch, batches.IndexBatches)
  return batches.take(examples, batch) if indexed else batch


def _mask(batch):
  indexed = isinstance(batch, batches.IndexBatches)
  return batch.mask if indexed else batch['mask']


def _check(method, forget, retain):
  """Raises a ValueError that says in one line what does not fit."""
  steps = {}
  for side, batch in (('forget', forget), ('retain', retain)):
    if batch is None:
      if side in method.needs:
        raise ValueError(f'the method needs {side} batches, got None.')
      continue
    if isinstance(batch, dict) and 'mask' not in batch:
      raise ValueError(
        f"{side} batches must hold a 'mask' [steps, batch], got "
        f'{", ".join(sorted(batch))}.'
      )
    shape = _mask(batch).shape
    if len(shape) != 2:
      raise ValueError(
        f'the mask of {side} batches must be [steps, batch], got {shape}.'
      )
    steps[side] = shape[0]
  return steps


def _step_or_skip(method, state, forget, retain, examples):
  """Steps, unless both batches are padding alone: then nothing changes."""
  shapes = []  # Of metrics; a step takes seconds to trace.

  def do(state):
    state, metrics = step(
      method, state, _gather(forget, examples), _gather(retain, examples)
    )
    shapes.append(jax.eval_shape(lambda: metrics))
    return state, metrics

  def skip(state):
    if not shapes:  # As under `jax.disable_jit`, where one branch alone runs.
      jax.eval_shape(do, state)
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes[0])
    return state, zeros

  masks = [_mask(batch) for batch in (forget, retain) if batch is not None]
  filled = sum(mask.sum() for mask in masks) > 0
  return jax.lax.cond(filled, do, skip, state)


@functools.partial(jax.jit, static_argnames='method', donate_argnames='state')
def run(
  method: UnlearningMethod,
  state: RunState,
  forget: Any,
  retain: Any,
  examples: Batch | None = None,
) -> tuple[RunState, Metrics]:
  """Scans `step` over all batches; donates `state`.

  A step whose batches are padding alone changes nothing, the step count
  included, and reports metrics of 0. So runs of different lengths share one
  compiled program.

  Args:
    method: built once, not in a loop: its identity names the program.
    state: from `init`.
    forget: stacked batches, a dict of arrays [steps, batch, ...], or
      `IndexBatches` into `examples`; None for a method that needs none.
    retain: likewise, with the same number of steps.
    examples: arrays [examples, ...] that `IndexBatches` point into.

  Returns:
    the state after the last step, and metrics [steps].

  Raises:
    ValueError: before anything is computed, if a set that the method needs is
      None, has no mask, or has another number of steps.
  """
  steps = _check(method, forget, retain)
  if len(set(steps.values())) > 1:
    raise ValueError(
      'forget and retain batches must have the same steps, got '
      f'{steps["forget"]} and {steps["retain"]}.'
    )

  def body(state, step_batches):
    return _step_or_skip(method, state, *step_batches, examples)

  return jax.lax.scan(body, state, (forget, retain))


@functools.partial(jax.jit, static_argnames='method', donate_argnames='state')
def prepare(
  method: UnlearningMethod,
  state: RunState,
  forget: Any,
  retain: Any,
  examples: Batch | None = None,
) -> RunState:
  """Lets a method that has `prepare` see whole sets once; donates `state`.

  Args:
    method: with or without `prepare`; without it nothing changes.
    state: from `init`.
    forget: one pass over the forget set, stacked as in `run`; None for a method
      that needs none.
    retain: likewise.
    examples: as in `run`.

  Raises:
    ValueError: as in `run`; the steps of the sets may differ.
  """
  if method.prepare is None:
    return state
  _check(method, forget, retain)
  params, method_state = method.prepare(
    state.params, state.method_state, forget, retain, examples, state.key
  )
  return state.replace(params=params, method_state=method_state)
