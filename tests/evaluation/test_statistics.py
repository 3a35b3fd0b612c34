"""Comparisons over seeds: worked examples, exact tests, coverage."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.evaluation import statistics

FIRST = np.array([0.90, 0.92, 0.91, 0.93, 0.89])
SECOND = np.array([0.95, 0.94, 0.96, 0.95, 0.93])


class ComparePairedTest(absltest.TestCase):
  def test_worked_example(self):
    found = statistics.compare_paired(FIRST, SECOND)
    mean, low, high, _ = found.difference
    self.assertAlmostEqual(mean, -0.036)
    self.assertAlmostEqual((high - low) / 2, 0.018831, places=6)
    self.assertAlmostEqual(found.p_t, 0.006055, places=6)
    self.assertAlmostEqual(found.p_sign_flip, 0.0625)

  def test_six_seeds_can_be_significant(self):
    found = statistics.compare_paired(np.arange(1.0, 7.0), np.zeros(6))
    self.assertAlmostEqual(found.p_sign_flip, 2 / 64)

  def test_no_spread(self):
    same = statistics.compare_paired(FIRST, FIRST)
    self.assertEqual((same.p_t, same.p_sign_flip), (1.0, 1.0))
    self.assertEqual(same.difference[:3], (0, 0, 0))
    apart = statistics.compare_paired(np.ones(5), np.zeros(5))
    self.assertEqual(apart.p_t, 0.0)

  def test_leaves_nan_out(self):
    first = np.append(FIRST, np.nan)
    found = statistics.compare_paired(first, np.append(SECOND, 0.5))
    self.assertEqual(found, statistics.compare_paired(FIRST, SECOND))

  def test_bad_input(self):
    with self.assertRaisesRegex(ValueError, 'same seeds, got 5 and 4'):
      statistics.compare_paired(FIRST, SECOND[:4])
    with self.assertRaisesRegex(ValueError, 'needs 2 seeds'):
      statistics.compare_paired(FIRST[:1], SECOND[:1])


class HolmTest(parameterized.TestCase):
  def test_by_hand(self):
    got = statistics.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(got, [0.03, 0.06, 0.06, 0.02])

  @parameterized.parameters(*range(5))
  def test_bounds(self, seed):
    p = np.random.default_rng(seed).random(7)
    got = statistics.holm(p)
    self.assertTrue((got >= p).all() and (got <= 1).all())
    self.assertLessEqual(got.min(), 7 * p.min())


class BcaTest(absltest.TestCase):
  def test_covers_the_mean_of_skewed_values(self):
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(40):
      found = statistics.bca_interval(rng.exponential(size=40), seed=seed)
      hits += found.low <= 1.0 <= found.high
    self.assertBetween(hits, 33, 40)
    self.assertEqual(found.method, 'bca')

  def test_depends_on_the_seed_alone(self):
    self.assertEqual(
      statistics.bca_interval(FIRST), statistics.bca_interval(FIRST)
    )

  def test_no_spread_or_too_few(self):
    self.assertEqual(statistics.bca_interval(np.ones(4))[:3], (1, 1, 1))
    self.assertTrue(np.isnan(statistics.bca_interval(np.ones(1)).low))


if __name__ == '__main__':
  absltest.main()
