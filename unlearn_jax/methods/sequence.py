r"""One rule after another: forget first, for instance, and then repair.

.. math:: \theta_{k+1} = u_m(\theta_k), \quad
  s_1 + ... + s_{m-1} \le k < s_1 + ... + s_m

with u_m the step of rule m and s_m how many it takes; the last takes all that
follow. Data: what any of them needs. A rule begins anew with the parameters
that it finds: its optimizer is fresh, and a teacher or an anchor is a copy of
these, not of the original model.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.types import MethodState, UnlearningMethod


class SequenceState(NamedTuple):
  """States of all the rules, and where the sequence is.

  Attributes:
    states: one for each rule; of a rule that has not begun it is of no use.
    steps: [rules - 1] int32, how many each but the last takes.
    taken: int32, how many steps have been taken.
    stage: int32, the rule that took the latest.
    key: what the later rules begin with.
  """

  states: tuple[MethodState, ...]
  steps: jax.Array
  taken: jax.Array
  stage: jax.Array
  key: jax.Array


def sequence(
  methods: Sequence[UnlearningMethod], steps: Sequence[int]
) -> UnlearningMethod:
  """Runs one rule after another, as one `UnlearningMethod`.

  Each step reports the metrics of all rules: 0 for those of another rule.

  Args:
    methods: at least one. The first alone may have `prepare`, which is run
      before the first step: a later one would need its sets when its turn
      comes, in the midst of the steps.
    steps: how many each but the last takes, at least 0; steps of padding
      alone, which `training.loop.run` skips, do not count.

  Raises:
    ValueError: if there is no rule, a later one has `prepare`, or `steps` are
      too many, too few or negative.
  """
  methods = tuple(methods)
  _check(methods, steps)

  def begin(k, params, key):
    # The first begins as it would alone.
    return methods[k].init(params, jax.random.fold_in(key, k) if k else key)

  def init_fn(params, key):
    return SequenceState(
      states=tuple(begin(k, params, key) for k in range(len(methods))),
      steps=jnp.asarray(steps, jnp.int32),
      taken=jnp.zeros((), jnp.int32),
      stage=jnp.zeros((), jnp.int32),
      key=jnp.copy(key),
    )

  def update_fn(params, state, forget, retain, key):
    ends = jnp.cumsum(state.steps)
    stage = (state.taken >= ends).sum().astype(jnp.int32)

    def own_state(k):
      if k == 0:
        return state.states[0]
      return jax.lax.cond(
        stage != state.stage,
        lambda: begin(k, params, state.key),
        lambda: state.states[k],
      )

    def take(k):
      after, own, metrics = methods[k].update(
        params, own_state(k), forget, retain, key
      )
      states = (*state.states[:k], own, *state.states[k + 1 :])
      return after, states, metrics

    takes = [functools.partial(take, k) for k in range(len(methods))]
    params, states, metrics = jax.lax.switch(stage, _same_metrics(takes))
    state = state._replace(states=states, taken=state.taken + 1, stage=stage)
    return params, state, metrics

  return UnlearningMethod(
    init_fn,
    update_fn,
    _prepare_of(methods[0]),
    frozenset().union(*(method.needs for method in methods)),
  )


def _check(methods, steps):
  if not methods:
    raise ValueError('sequence needs at least one method, got none.')
  if any(method.prepare is not None for method in methods[1:]):
    raise ValueError(
      'only the first method of a sequence may have `prepare`: a later one '
      'would need whole sets in the midst of the steps.'
    )
  if len(steps) != len(methods) - 1:
    raise ValueError(
      f'steps must have {len(methods) - 1} entries for {len(methods)} methods, '
      f'got {len(steps)}.'
    )
  for count in steps:
    base.check_range('steps', count, 0)


def _same_metrics(takes):
  """Gives each step the metrics of all, 0 for those that it does not have."""
  shapes = {}
  for take in takes:
    shapes |= jax.eval_shape(take)[2]

  def complete(take):
    def step():
      params, states, metrics = take()
      none = {n: jnp.zeros(s.shape, s.dtype) for n, s in shapes.items()}
      return params, states, none | metrics

    return step

  return [complete(take) for take in takes]


def _prepare_of(method):
  if method.prepare is None:
    return None

  def prepare_fn(params, state, forget, retain, examples, key):
    params, first = method.prepare(
      params, state.states[0], forget, retain, examples, key
    )
    return params, state._replace(states=(first, *state.states[1:]))

  return prepare_fn
