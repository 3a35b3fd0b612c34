"""U-LiRA against closed forms, a naive twin, and worlds of known overlap."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.special
import scipy.stats

from unlearn_jax.evaluation import ulira as lib
from unlearn_jax.evaluation.ulira import logit_confidence
from unlearn_jax.evaluation.ulira import ulira


def worlds(seed, models=24, examples=30, shift=0.0, sd=1.0):
  rng = np.random.default_rng(seed)
  difficulty = rng.normal(size=examples)
  u = difficulty + shift + sd * rng.normal(size=(models, examples))
  r = difficulty + rng.normal(size=(models, examples))
  return u, r


def naive(u, r, in_u, in_r):
  """Pair by pair, in the words of the algorithm, for 16 models or more."""
  right = {0: [], 1: []}
  for x in range(u.shape[1]):
    members = [np.flatnonzero(inside[:, x]) for inside in (in_u, in_r)]
    for half in (0, 1):
      fitted = [
        scipy.stats.norm(
          world[m[1 - half :: 2], x].mean(),
          world[m[1 - half :: 2], x].std(ddof=1),
        )
        for world, m in zip((u, r), members, strict=True)
      ]
      for truth, (world, m) in enumerate(zip((u, r), members, strict=True)):
        for model in m[half::2]:
          phi = world[model, x]
          ratio = fitted[0].logpdf(phi) - fitted[1].logpdf(phi)
          right[truth].append(ratio > 0 if truth == 0 else ratio < 0)
  return (np.mean(right[0]) + np.mean(right[1])) / 2


class LogitConfidenceTest(parameterized.TestCase):
  def test_is_the_log_odds(self):
    p = np.array([0.7, 0.2, 0.1])
    got = logit_confidence(np.log(p)[None], np.array([0]))
    np.testing.assert_allclose(got, [0.847298], atol=1e-6)

  def test_does_not_saturate(self):
    got = logit_confidence(
      np.array([[1e4, 0.0], [-1e4, 0.0]]), np.zeros(2, int)
    )
    np.testing.assert_allclose(got, [1e4, -1e4])

  def test_labels_serve_all_members(self):
    logits = np.random.default_rng(0).normal(size=(5, 7, 3))
    labels = np.arange(7) % 3
    got = logit_confidence(logits, labels)
    p = scipy.special.softmax(logits, -1)[:, np.arange(7), labels]
    np.testing.assert_allclose(got, np.log(p / (1 - p)))

  @parameterized.parameters(-1, 3)
  def test_label_out_of_range(self, label):
    with self.assertRaisesRegex(ValueError, r'labels must be in \[0, 3\)'):
      logit_confidence(np.zeros((1, 3)), np.array([label]))

  def test_one_class(self):
    with self.assertRaisesRegex(ValueError, '>= 2 classes, got 1'):
      logit_confidence(np.zeros((1, 1)), np.array([0]))


class DensityTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.0, 1.0, 0.0, 1.0, 0.8, 0.3),
    # Without -log sigma this would be 0.
    (1.0, 0.5, 0.0, 2.0, 0.8, 1.386294),
  )
  def test_gaussian_ratio(self, mean_u, sd_u, mean_r, sd_r, phi, want):
    def world(mean, sd):  # 16 values of exactly this mean and deviation.
      z = scipy.stats.zscore(np.arange(16.0), ddof=1)
      return lib._gaussian((mean + sd * z)[:, None], np.array([True]))

    point = np.array([[phi]])
    got = world(mean_u, sd_u)(point) - world(mean_r, sd_r)(point)
    np.testing.assert_allclose(got, want, atol=1e-6)

  def test_kernel_ratio(self):
    u, r = np.array([[0.0], [2.0]]), np.array([[-1.0], [1.0]])
    one = np.ones(1)
    point = np.array([[2.0]])
    log_u = lib.kde_log_density(point, u, one)
    log_r = lib.kde_log_density(point, r, one)
    np.testing.assert_allclose(np.exp(log_u), [[0.226467]], atol=1e-6)
    np.testing.assert_allclose(np.exp(log_r), [[0.123201]], atol=1e-6)
    np.testing.assert_allclose(log_u - log_r, [[0.608778]], atol=1e-6)

  def test_bandwidth_is_silvermans(self):
    values = np.random.default_rng(0).normal(size=(50, 1))
    values[:5] = np.nan
    own = values[5:, 0]
    spread = min(own.std(ddof=1), scipy.stats.iqr(own) / 1.34)
    np.testing.assert_allclose(lib.bandwidth(values), [0.9 * spread * 45**-0.2])
    np.testing.assert_array_equal(lib.bandwidth(np.ones((9, 1))), [1e-3])


class UliraTest(parameterized.TestCase):
  @parameterized.parameters('gaussian', 'kde')
  def test_equal_worlds_cannot_be_told_apart(self, density):
    u, r = worlds(0, models=64, examples=100)
    found = ulira(u, r, density=density)
    self.assertAlmostEqual(found.accuracy, 0.5, delta=0.02)
    self.assertAlmostEqual(found.auc, 0.5, delta=0.02)
    self.assertAlmostEqual(found.tpr_at_1e2, 0.01, delta=0.01)

  @parameterized.product(density=('gaussian', 'kde'), shift=(1.0, 2.0))
  def test_reaches_the_best_possible_accuracy(self, density, shift):
    u, r = worlds(0, models=128, examples=100, shift=shift)
    found = ulira(u, r, density=density)
    best = scipy.stats.norm.cdf(shift / 2)
    self.assertAlmostEqual(found.accuracy, best, delta=0.02)
    self.assertAlmostEqual(
      found.auc, scipy.stats.norm.cdf(shift / np.sqrt(2)), delta=0.03
    )

  def test_tells_worlds_apart_by_their_variance_alone(self):
    u, r = worlds(0, models=128, examples=100, sd=0.2)
    self.assertGreater(ulira(u, r).accuracy, 0.7)

  def test_over_unlearning_is_found_too(self):
    u, r = worlds(0, models=64, examples=100, shift=-3.0)
    self.assertGreater(ulira(u, r).accuracy, 0.9)

  @parameterized.parameters(0, 1)
  def test_equals_the_naive_twin(self, seed):
    u, r = worlds(seed, models=70, examples=6, shift=0.5)
    rng = np.random.default_rng(seed)
    in_u, in_r = rng.random(u.shape) < 0.6, rng.random(r.shape) < 0.6
    u[~in_u] = np.nan  # What does not count is never looked at.
    r[~in_r] = np.nan
    found = ulira(u, r, in_u=in_u, in_r=in_r)
    # Both worlds over examples of as many pairs.
    want = naive(u, r, in_u, in_r)
    self.assertAlmostEqual(found.accuracy, want, places=12)
    self.assertLen(found.scores, in_u.sum() + in_r.sum())

  @parameterized.parameters(*range(10))
  def test_ranges(self, seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(4, 40)), int(rng.integers(1, 9)))
    u, r = rng.standard_cauchy(shape) * 1e3, rng.standard_cauchy(shape)
    found = ulira(u, r, density='kde' if seed % 2 else 'gaussian')
    for value in (found.accuracy, found.auc, *found.example_accuracy):
      self.assertBetween(value, 0.0, 1.0)
    self.assertLessEqual(np.abs(found.scores).max(), 50)
    counts = np.bincount(found.example, minlength=shape[1])
    np.testing.assert_array_equal(counts, 2 * shape[0])

  @parameterized.parameters('gaussian', 'kde')
  def test_constants(self, density):
    same, other = np.zeros((8, 2)), np.ones((8, 2))
    equal = ulira(same, same, density=density)
    np.testing.assert_array_equal(equal.scores, 0)
    self.assertEqual((equal.accuracy, equal.auc), (0.5, 0.5))
    apart = ulira(same, other, density=density)
    np.testing.assert_array_equal(np.abs(apart.scores), 50)
    self.assertEqual((apart.accuracy, apart.auc), (1.0, 1.0))

  def test_an_example_with_too_few_models_has_no_value(self):
    u, r = worlds(0, models=20, examples=3)
    in_u = np.ones(u.shape, bool)
    in_u[3:, 1] = False
    found = ulira(u, r, in_u=in_u)
    self.assertTrue(np.isnan(found.example_accuracy[1]))
    self.assertTrue(np.isfinite(found.example_accuracy[[0, 2]]).all())
    self.assertNotIn(1, found.example)

  def test_accuracy_by_model(self):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(20, 30))
    seen = np.arange(20)[:, None] % 2 == np.arange(30) % 2
    found = ulira(phi + 2 * seen, phi + 2 * seen, in_u=seen, in_r=~seen)
    by_model = found.model_accuracy()
    self.assertLen(by_model, 20)
    for model in (0, 13):
      mine = found.model == model
      right = (found.scores > 0) == found.unlearned
      want = np.mean(
        [right[mine & (found.unlearned == world)].mean() for world in (0, 1)]
      )
      self.assertAlmostEqual(by_model[model], want)
    self.assertAlmostEqual(by_model.mean(), found.accuracy, places=2)

  def test_rates_of_few_pairs_are_nan(self):
    found = ulira(*worlds(0, models=20, examples=10))
    self.assertTrue(np.isnan(found.tpr_at_1e2))
    self.assertTrue(np.isnan(found.tpr_at_1e3))


class BadInputTest(absltest.TestCase):
  def test_population_too_small(self):
    u, r = worlds(0, models=3)
    with self.assertRaisesRegex(ValueError, 'needs 4 models in each world'):
      ulira(u, r)

  def test_nan(self):
    u, r = worlds(0)
    u[0, :3] = np.nan
    with self.assertRaisesRegex(ValueError, 'phi_u must be finite, got 3'):
      ulira(u, r)

  def test_infinite(self):
    u, r = worlds(0)
    r[2, :2] = np.inf
    with self.assertRaisesRegex(ValueError, 'phi_r must be finite, got 2'):
      ulira(u, r)

  def test_no_example(self):
    with self.assertRaisesRegex(ValueError, 'forget set must not be empty'):
      ulira(np.zeros((8, 0)), np.zeros((8, 0)))

  def test_shapes(self):
    with self.assertRaisesRegex(ValueError, 'with the same examples'):
      ulira(np.zeros((8, 2)), np.zeros((8, 3)))
    with self.assertRaisesRegex(ValueError, 'in_r must have the shape'):
      ulira(np.zeros((8, 2)), np.zeros((8, 2)), in_r=np.ones((8, 3), bool))

  def test_density(self):
    with self.assertRaisesRegex(ValueError, 'must be gaussian or kde'):
      ulira(*worlds(0), density='laplace')


if __name__ == '__main__':
  absltest.main()
