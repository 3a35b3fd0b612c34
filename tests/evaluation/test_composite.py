"""Scores that join several metrics: worked examples and edges."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.evaluation import composite
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation.composite import Measured

UNLEARNED, RETRAINED = Measured(0.7, 0.6, 9.0), Measured(0.8, 0.5, 99.0)
ORIGINAL = Measured(0.8, 0.7)


def accuracies(forget, retain, test):
  return {
    'accuracy.forget': forget,
    'accuracy.retain': retain,
    'accuracy.test': test,
  }


class GapsTest(parameterized.TestCase):
  def test_tug_of_war(self):
    u, r = accuracies(0.95, 0.99, 0.90), accuracies(0.92, 0.995, 0.92)
    self.assertAlmostEqual(gaps.tug_of_war(u, r), 0.945847, places=6)
    self.assertEqual(gaps.tug_of_war(u, u), 1.0)

  def test_adaptive_unlearning_score(self):
    score = gaps.adaptive_unlearning_score
    self.assertAlmostEqual(
      score(0.95, 0.90, 0.92, removes_classes=False), 0.933333, places=6
    )
    # The goal of class removal is 0, not the test accuracy.
    self.assertAlmostEqual(
      score(0.95, 0.90, 0.92, removes_classes=True), 0.98 / 1.95
    )
    self.assertGreater(score(0.9, 0.9, 0.8, removes_classes=False), 1)

  def test_mu_bench_score_prefers_a_damaged_model_to_retraining(self):
    score = gaps.mu_bench_score
    retrained = score(0.95, 0.95, 0.96, classes=12)
    self.assertAlmostEqual(retrained, 0.235015, places=6)
    damaged = score(0.1, 0.5, 0.96, classes=12)
    self.assertAlmostEqual(damaged, 0.697155, places=6)

  def test_nomus(self):
    self.assertAlmostEqual(gaps.nomus(0.9, 0.55), 0.9)
    with self.assertRaisesRegex(ValueError, 'weight must be in'):
      gaps.nomus(0.9, 0.5, weight=2)

  @parameterized.parameters(*range(5))
  def test_ranges(self, seed):
    values = np.random.default_rng(seed).random((2, 3))
    tow = gaps.tug_of_war(*(accuracies(*row) for row in values))
    self.assertBetween(tow, 0, 1)
    self.assertBetween(gaps.nomus(*values[0, :2]), 0, 1)


class CompositeTest(parameterized.TestCase):
  def test_worked_example(self):
    got = composite.gum(UNLEARNED, RETRAINED, ORIGINAL)
    self.assertAlmostEqual(got, 0.675, places=6)
    got = composite.cgum(UNLEARNED, RETRAINED, ORIGINAL, classes=10)
    self.assertAlmostEqual(got, 0.580645, places=6)

  def test_is_zero_without_speed(self):
    slow = Measured(0.7, 0.6, 99.0)
    self.assertEqual(composite.gum(slow, RETRAINED, ORIGINAL), 0)
    self.assertEqual(composite.cgum(slow, RETRAINED, ORIGINAL, classes=10), 0)
    self.assertEqual(composite.gum(RETRAINED, RETRAINED, ORIGINAL), 0)

  def test_nothing_to_forget(self):
    original = Measured(0.8, 0.5)
    for value in (
      composite.gum(UNLEARNED, RETRAINED, original),
      composite.cgum(UNLEARNED, RETRAINED, original, classes=10),
      composite.cgum(UNLEARNED, Measured(0.1, 0.5, 9), ORIGINAL, classes=10),
    ):
      self.assertTrue(np.isnan(value))

  def test_a_model_worse_than_the_original_has_forgotten_nothing(self):
    worse = Measured(0.8, 0.9, 9.0)
    self.assertEqual(composite.gum(worse, RETRAINED, ORIGINAL), 0)

  def test_a_collapsed_model_keeps_no_utility(self):
    collapsed = Measured(0.05, 0.5, 9.0)
    got = composite.cgum(collapsed, RETRAINED, ORIGINAL, classes=10)
    self.assertEqual(got, 0)

  @parameterized.parameters(*range(8))
  def test_ranges(self, seed):
    rng = np.random.default_rng(seed)
    u, r, o = (Measured(*rng.random(2), 100 * rng.random()) for _ in range(3))
    for got in (
      composite.gum(u, r, o),
      composite.cgum(u, r, o, classes=10),
    ):
      self.assertTrue(np.isnan(got) or 0 <= got <= 1)


if __name__ == '__main__':
  absltest.main()
