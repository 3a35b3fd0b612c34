"""A sweep gives what runs of one setting after another give."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods import registry
from unlearn_jax.methods import search_space
from unlearn_jax.populations.sweep import sweep
from unlearn_jax.training import loop

FORGET, RETAIN = np.arange(6), np.arange(6, 26)
EXAMPLES = P.make_examples(26)
VISITS = 2


def plan(name):
  """A method, its draws, and the batches of two visits."""
  row = registry.spec(name)
  draws = search_space.draw(name, row.preset, 3, seed=0)
  if name == 'ssd':  # So small a network needs a lower one.
    draws = [
      dataclasses.replace(d, values={**d.values, 'threshold': 0.1 * (i + 1)})
      for i, d in enumerate(draws)
    ]
  method = row.build(
    P.make_problem(blocks=('kernel', 'bias')),
    row.preset.optimizer(),
    **row.preset.options,
  )
  made = [
    row.epoch_batches(row.preset, FORGET, RETAIN, epoch=epoch, seed=(1,))
    for epoch in range(VISITS)
  ]
  once = (None, None)
  if method.prepare is not None:
    once = row.prepare_batches(row.preset, FORGET, RETAIN)
  return method, draws, made, once


def stacked(made):
  return [
    None
    if side[0] is None
    else batches.IndexBatches(
      np.stack([b.rows for b in side]), np.stack([b.mask for b in side])
    )
    for side in zip(*made, strict=True)
  ]


class SweepTest(parameterized.TestCase):
  @parameterized.product(
    # A rule with a teacher, one that edits, one that does both, one that
    # alternates, and one that needs a single set.
    name=('bad_teacher', 'ssd', 'salun', 'scrub', 'gradient_ascent'),
    strategy=('map', 'vmap'),
  )
  def test_equals_runs_of_one_setting(self, name, strategy):
    method, draws, made, once = plan(name)
    params, key = P.make_params(), jax.random.key(7)
    steps = made if registry.spec(name).preset.epochs else []
    settings = {
      n: np.array([d.values[n] for d in draws]) for n in draws[0].values
    }
    forget, retain = stacked(steps) if steps else (None, None)
    got = sweep(
      method,
      params,
      key,
      settings,
      once,
      forget,
      retain,
      EXAMPLES,
      strategy=strategy,
    )
    for i, draw in enumerate(draws):
      state = loop.init(method, params, key)
      values = {n: jnp.float32(v) for n, v in draw.values.items()}
      state = optax.tree_utils.tree_set(state, **values)
      state = loop.prepare(method, state, *once, EXAMPLES)
      for visit in range(max(len(steps), 1)):
        if steps:
          state, _ = loop.run(method, state, *steps[visit], EXAMPLES)
        for leaf, want in zip(
          jax.tree.leaves(got), jax.tree.leaves(state.params), strict=True
        ):
          np.testing.assert_allclose(leaf[i, visit], want, rtol=2e-5, atol=2e-6)
    # The settings do make a difference.
    self.assertGreater(float(jnp.ptp(got['kernel'][:, -1], axis=0).max()), 1e-6)

  def test_a_scalar_that_is_not_of_the_method(self):
    method, _, made, once = plan('gradient_ascent')
    args = P.make_params(), jax.random.key(0)
    with self.assertRaisesRegex(ValueError, "has no scalar 'beta'.$"):
      sweep(method, *args, {'beta': np.ones(2)}, once, *stacked(made), EXAMPLES)
    with self.assertRaisesRegex(ValueError, 'got none.$'):
      sweep(method, *args, {}, once, *stacked(made), EXAMPLES)


if __name__ == '__main__':
  absltest.main()
