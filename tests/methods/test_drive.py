"""Methods by name, on any model."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import problems as P

from unlearn_jax.methods import registry
from unlearn_jax.methods.drive import unlearn
from unlearn_jax.training import loop
from unlearn_jax.training.fit import steps_of
from unlearn_jax.training.recipe import set_total_steps

ROWS = np.arange(6), np.arange(6, 40)
EXAMPLES = P.make_examples(40)
PROBLEM = P.make_problem(blocks=('kernel', 'bias'))


def by_hand(name, preset, seed):
  row = registry.spec(name)
  method = row.build(PROBLEM, preset.optimizer(), **preset.options)
  state = loop.init(method, P.make_params(), jax.random.key(seed))
  made = [
    row.epoch_batches(preset, *ROWS, epoch=epoch, seed=(seed,))
    for epoch in range(preset.epochs)
  ]
  state = set_total_steps(state, sum(map(steps_of, made)))
  once = row.prepare_batches(preset, *ROWS)
  state = loop.prepare(method, state, *once, EXAMPLES)
  for sides in made:
    state, _ = loop.run(method, state, *sides, EXAMPLES)
  return state.params


class UnlearnTest(parameterized.TestCase):
  # One of steps, one that edits, one that prepares and has a schedule.
  @parameterized.product(
    name=('npo', 'ssd', 'saliency:npo'), scope=('sample', 'class', 'group')
  )
  def test_is_the_run_of_the_preset(self, name, scope):
    params = P.make_params()
    row = registry.spec(name)
    preset = row.preset_for(scope)
    got = unlearn(
      name,
      PROBLEM,
      params,
      ROWS,
      EXAMPLES,
      scope=scope,
      seed=3,
    )
    jax.tree.map(
      np.testing.assert_array_equal, got, by_hand(name, preset, seed=3)
    )
    # The caller's parameters are as they were.
    jax.tree.map(np.testing.assert_array_equal, params, P.make_params())

  def test_with_other_settings(self):
    preset = registry.spec('npo').preset
    preset = dataclasses.replace(preset, schedule='cosine', epochs=2)
    got = unlearn(
      'npo', PROBLEM, P.make_params(), ROWS, EXAMPLES, preset=preset
    )
    want = by_hand('npo', preset, seed=0)
    jax.tree.map(np.testing.assert_array_equal, got, want)

  @parameterized.parameters('retrain', 'scrub_rewind')
  def test_needs_more(self, name):
    with self.assertRaisesRegex(ValueError, f'^{name} cannot run on a model'):
      unlearn(name, PROBLEM, P.make_params(), ROWS, EXAMPLES)

  def test_random_label_without_ids(self):
    method = registry.spec('random_label').build(PROBLEM, P.sgd())
    state = loop.init(method, P.make_params(), jax.random.key(0))
    batch = {**P.make_examples(4), 'mask': np.ones(4, np.float32)}
    with self.assertRaisesRegex(ValueError, 'needs an `id` '):
      method.update(state.params, state.method_state, batch, batch, state.key)


if __name__ == '__main__':
  absltest.main()
