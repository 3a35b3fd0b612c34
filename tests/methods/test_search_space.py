"""Ranges of settings: every method has them, and each is of its state."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import optax
import problems as P

from unlearn_jax.methods import registry
from unlearn_jax.methods import search_space
from unlearn_jax.methods.search_space import Draw
from unlearn_jax.methods.search_space import Range
from unlearn_jax.training import loop

NAMES = tuple(name for name in registry.METHODS if name != 'retrain')
# Terms that a preset leaves out by a weight of 0.
LEFT_OUT = {('confidence_matching', 'distill_weight')}
PROBLEM = P.make_problem(blocks=('kernel', 'bias'))


def presets(name):
  row = registry.spec(name)
  return [
    p for p in (row.preset, row.class_preset, row.group_preset) if p is not None
  ]


class RangesTest(parameterized.TestCase):
  def test_every_method_has_ranges_and_no_other(self):
    self.assertCountEqual(search_space.RANGES, NAMES)

  @parameterized.named_parameters((f'_{name}', name) for name in NAMES)
  def test_are_of_the_state(self, name):
    for preset in presets(name):
      options = search_space.as_variables(name, preset.options)
      method = registry.spec(name).build(PROBLEM, preset.optimizer(), **options)
      state = jax.eval_shape(
        lambda method=method: loop.init(
          method, P.make_params(), jax.random.key(0)
        )
      )
      for scalar in search_space.ranges(name):
        with self.subTest(scalar):
          found = optax.tree_utils.tree_get_all_with_path(state, scalar)
          self.assertNotEmpty(found)

  @parameterized.named_parameters((f'_{name}', name) for name in NAMES)
  def test_ends_are_allowed_and_hold_the_presets(self, name):
    space, row = search_space.ranges(name), registry.spec(name)
    for preset in presets(name):
      for share in (0.0, 1.0):
        ends = Draw(
          {n: r.at(share) for n, r in space.items()}, 'adamw', 'cosine'
        )
        made = ends.applied(preset, preset.epochs)
        row.build(PROBLEM, made.optimizer(), **made.options)
      for scalar, bounds in space.items():
        own = {**preset.options, 'learning_rate': preset.learning_rate}[scalar]
        if own == 0 and (name, scalar) in LEFT_OUT:
          continue
        with self.subTest(scalar):
          self.assertBetween(own, bounds.low, bounds.high)

  def test_a_wrapped_method_has_those_of_the_inner(self):
    self.assertEqual(
      search_space.ranges('saliency:npo'), search_space.ranges('npo')
    )
    with self.assertRaises(KeyError):
      search_space.ranges('retrain')

  @parameterized.parameters((2.0, 1.0, True), (0.0, 1.0, True), (1, 1, False))
  def test_bad_bounds(self, low, high, log):
    with self.assertRaisesRegex(ValueError, f'got {low} and {high}.$'):
      Range(low, high, log)


class DrawTest(parameterized.TestCase):
  def test_the_first_is_the_preset(self):
    preset = registry.spec('npo').preset
    first, *_ = search_space.draw('npo', preset, 4, seed=0)
    self.assertEqual(first.applied(preset, preset.epochs), preset)

  def test_fill_the_space_evenly_on_its_scale(self):
    draws = search_space.draw('ssd', registry.spec('ssd').preset, 65, seed=1)
    points = np.array([list(d.values.values()) for d in draws[1:]])
    low, high = np.transpose([(1.0, 100.0), (0.05, 1.0)])
    shares = np.log(points / low) / np.log(high / low)
    # A quarter in each quarter, which independent draws would miss by 7 of 64.
    for column in shares.T:
      counts = np.histogram(column, bins=4, range=(0, 1))[0]
      np.testing.assert_allclose(counts, 16, atol=2)
    self.assertEqual({d.algorithm for d in draws}, {'adamw'})

  def test_a_quarter_is_of_momentum_at_a_larger_rate(self):
    preset = registry.spec('delete').preset
    draws = search_space.draw('delete', preset, 101, seed=0)
    rates = {
      name: [d.values['learning_rate'] for d in draws if d.algorithm == name]
      for name in ('adamw', 'sgd')
    }
    self.assertBetween(len(rates['sgd']), 24, 26)
    medians = {name: np.median(values) for name, values in rates.items()}
    self.assertBetween(medians['sgd'] / medians['adamw'], 15, 60)

  def test_depend_on_the_seed_alone(self):
    preset = registry.spec('scrub').preset
    one, same, other = (
      search_space.draw('scrub', preset, 5, seed=seed) for seed in (3, 3, 4)
    )
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_a_bad_count(self):
    preset = registry.spec('npo').preset
    with self.assertRaisesRegex(ValueError, 'count must be >= 1, got 0.'):
      search_space.draw('npo', preset, 0, seed=0)


if __name__ == '__main__':
  absltest.main()
