"""KLoM and the forgetting score: worked examples, a naive twin, edges."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.evaluation import forgetting_score as score
from unlearn_jax.evaluation.klom import klom


def column(*values):
  return np.array(values, np.float64)[:, None]


class KlomTest(parameterized.TestCase):
  @parameterized.parameters(
    # Binning by digitize drops the maximum, and the first would be 0.362991.
    ((0, 0, 0, 1, 2), (0, 1, 1, 2, 2), 0.381909),
    ((0, 0, 0, 1), (0, 0, 1, 1), 0.130812),
    ((1, 1, 1), (0, 0, 0), np.log(1e5 + 1)),
    ((3, 3, 3), (3, 3, 3), 0.0),
    ((1, 1, 1), (1, 1, 1 + 2e-16), 0.0),  # Apart by rounding alone.
  )
  def test_worked_examples(self, u, r, want):
    got = klom(column(*u), column(*r), bins=2)
    np.testing.assert_allclose(got, [want], atol=1e-6)

  def test_clips_margins(self):
    far = klom(column(1e9, 1e9), column(100, 100))
    np.testing.assert_array_equal(far, [0])

  @parameterized.parameters(*range(8))
  def test_range(self, seed):
    rng = np.random.default_rng(seed)
    u, r = rng.standard_cauchy((9, 20)), rng.normal(size=(7, 20))
    found = klom(u, r)
    self.assertEqual(found.shape, (20,))
    self.assertBetween(found.min(), 0, found.max())
    self.assertLess(found.max(), 11.6)

  def test_is_small_for_equal_worlds_and_large_for_others(self):
    rng = np.random.default_rng(0)
    r = rng.normal(size=(200, 50))
    same = klom(rng.normal(size=(200, 50)), r).mean()
    other = klom(3 + rng.normal(size=(200, 50)), r).mean()
    self.assertLess(same, 0.3)
    self.assertGreater(other, 1.5)

  def test_bad_input(self):
    two = column(0, 1)
    with self.assertRaisesRegex(ValueError, 'KLoM needs 2 models in each'):
      klom(two, two[:1])
    with self.assertRaisesRegex(ValueError, 'with the same examples'):
      klom(two, np.zeros((2, 2)))
    with self.assertRaisesRegex(ValueError, 'must not be empty'):
      klom(two[:, :0], two[:, :0])
    with self.assertRaisesRegex(ValueError, 'phi_r must be finite, got 1'):
      klom(two, column(0, np.nan))
    with self.assertRaisesRegex(ValueError, 'bins must be >= 2'):
      klom(two, two, bins=1)


def naive_epsilon(u, r):
  """Every threshold and interval, one by one."""
  if np.median(u) == np.median(r):
    return np.fmax(naive_best(u, r), naive_best(r, u))
  return naive_best(*sorted((u, r), key=np.median, reverse=True))


def naive_best(positive, negative):
  values = sorted(set(positive) | set(negative))
  edges = [(a + b) / 2 for a, b in zip(values, values[1:])]  # noqa: B905
  tests = [lambda x, t=t: x > t for t in edges]
  for i, a in enumerate(edges):
    for b in edges[i + 1 :]:
      tests.append(lambda x, a=a, b=b: (x > a) & (x < b))
      tests.append(lambda x, a=a, b=b: ~((x > a) & (x < b)))
  found = []
  for test in tests:
    fpr, fnr = np.mean(test(negative)), np.mean(~test(positive))
    if fpr == fnr == 0:
      return 50.0
    if fpr and fnr:
      for a, b in ((fpr, fnr), (fnr, fpr)):
        if 1 - 1e-5 - a > 0:
          found.append(np.log(1 - 1e-5 - a) - np.log(b))
  return np.clip(max(found), 0, 50) if found else np.nan


class ForgettingScoreTest(parameterized.TestCase):
  def test_epsilon_of_rates(self):
    found = score.epsilon_of_rates(np.array([0.1, 1.0]), np.array([0.2, 1.0]))
    np.testing.assert_allclose(found[0], 2.079429, atol=1e-6)
    self.assertEqual(found[1], -np.inf)
    self.assertEqual(score.quality(found[:1], 512)[0], 0.0625)

  def test_best_single_threshold(self):
    found = score.epsilon(column(2, 3, 4, 5), column(0, 1, 2.5, 3.5))
    np.testing.assert_allclose(found, [1.098599], atol=1e-6)
    self.assertEqual(score.quality(found, 512)[0], 0.25)

  def test_quality(self):
    found = score.quality(np.array([0.2, 0.7, 2.0794]), 512)
    np.testing.assert_allclose(found.mean(), 0.520833, atol=1e-6)
    # 512 models see as far as 7: 14 bins.
    np.testing.assert_allclose(
      score.quality(np.array([6.99, 7.0, np.nan]), 512), [2.0**-13, 0, np.nan]
    )

  def test_final_score(self):
    found = score.final_score(
      0.5, retain_u=0.98, retain_r=0.99, test_u=0.90, test_r=0.92
    )
    self.assertAlmostEqual(found, 0.484190, places=6)
    self.assertTrue(
      np.isnan(score.final_score(1, retain_u=1, retain_r=0, test_u=1, test_r=1))
    )

  @parameterized.parameters(*range(12))
  def test_equals_the_naive_twin(self, seed):
    rng = np.random.default_rng(seed)
    u = rng.normal(0.5, 1 + seed % 3, size=(9, 4)).round(1)
    r = rng.normal(size=(7, 4)).round(1)
    want = [naive_epsilon(a, b) for a, b in zip(u.T, r.T, strict=True)]
    np.testing.assert_allclose(score.epsilon(u, r), want, rtol=1e-12)
    self.assertBetween(score.forgetting_quality(u, r), 0, 1)

  @parameterized.parameters(
    ((1, 1, 1), (1, 1, 1), 0.0),
    ((1, 1, 1), (2, 2, 2), 50.0),
    ((1, 1, 1), (0, 1, 2), 50.0),  # A narrow world in a wide one.
    ((1, 2, 3), (1, 2, 3), 0.0),
    ((1, 2, 3), (11, 12, 13), 50.0),
  )
  def test_edges(self, u, r, want):
    self.assertEqual(score.epsilon(column(*u), column(*r))[0], want)

  def test_does_not_depend_on_the_order_of_the_worlds(self):
    rng = np.random.default_rng(0)
    u = rng.integers(0, 3, (5, 200)).astype(float)  # Many medians tie.
    r = rng.integers(0, 3, (6, 200)).astype(float)
    np.testing.assert_array_equal(score.epsilon(u, r), score.epsilon(r, u))

  def test_an_interval_finds_what_no_threshold_does(self):
    u = column(*np.linspace(-0.1, 0.1, 40), 3.0)
    r = column(*np.linspace(-3, 3, 41))
    self.assertGreater(score.epsilon(u, r)[0], 2.5)

  def test_needs_three_models(self):
    with self.assertRaisesRegex(ValueError, 'needs 3 models in each world'):
      score.epsilon(column(0, 1), column(0, 1))
    with self.assertRaisesRegex(ValueError, 'needs 3 models'):
      score.quality(np.zeros(2), 2)


if __name__ == '__main__':
  absltest.main()
