"""Accuracy, collapse, gaps, attack and statistics: METRICS.md's examples."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.special
import sklearn.metrics

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import cost
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import measure
from unlearn_jax.evaluation import population_mia
from unlearn_jax.evaluation import statistics

EMPTY = np.array([], int)
# EX1.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 1])


class AccuracyTest(parameterized.TestCase):
  def test_worked_example(self):
    pair = LABELS, PREDICTIONS
    self.assertAlmostEqual(accuracy.accuracy(*pair), 4 / 6)
    self.assertAlmostEqual(accuracy.balanced_accuracy(*pair), 5 / 9)
    self.assertAlmostEqual(accuracy.macro_f1(*pair), (0.8 + 2 / 3) / 3)

  @parameterized.parameters(range(8))
  def test_equals_scikit_learn(self, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 30) + 2 * (seed % 2)
    guesses = np.where(rng.random(30) < 0.6, labels, rng.integers(0, 9, 30))
    self.assertAlmostEqual(
      accuracy.macro_f1(labels, guesses),
      sklearn.metrics.f1_score(labels, guesses, average='macro'),
    )
    recall = sklearn.metrics.recall_score(
      labels, guesses, average=None, labels=np.unique(labels)
    )
    self.assertAlmostEqual(
      accuracy.balanced_accuracy(labels, guesses), recall.mean()
    )

  def test_empty_is_nan(self):
    for fun in (
      accuracy.accuracy,
      accuracy.balanced_accuracy,
      accuracy.macro_f1,
      collapse.excess,
    ):
      self.assertTrue(np.isnan(fun(EMPTY, EMPTY)), fun.__name__)

  def test_matched_accuracy_takes_the_class_mix_of_another_set(self):
    # Recalls are 2/3, 1 and 0.
    got = accuracy.matched_accuracy(LABELS, PREDICTIONS, np.array([0, 1, 1, 1]))
    self.assertAlmostEqual(got, (2 / 3 + 3) / 4)
    same = accuracy.matched_accuracy(LABELS, PREDICTIONS, LABELS)
    self.assertAlmostEqual(same, accuracy.accuracy(LABELS, PREDICTIONS))
    absent = accuracy.matched_accuracy(LABELS, PREDICTIONS, np.array([7]))
    self.assertTrue(np.isnan(absent))


class CollapseTest(parameterized.TestCase):
  def test_worked_example(self):
    self.assertAlmostEqual(collapse.excess(LABELS, PREDICTIONS), 0.5)

  def test_constant_prediction_of_the_largest_class(self):
    # EX3: Speech Commands v1, 12 labels, always "unknown".
    for largest, total, share in (
      (4221, 6798, 0.620918),
      (257, 3081, 0.083414),
    ):
      labels = np.zeros(total, int)
      labels[largest:] = 1 + np.arange(total - largest) % 11
      constant = np.zeros(total, int)
      self.assertAlmostEqual(accuracy.accuracy(labels, constant), share, 6)
      self.assertAlmostEqual(
        accuracy.balanced_accuracy(labels, constant), 1 / 12
      )
      self.assertAlmostEqual(collapse.excess(labels, constant), 1.0)
      self.assertTrue(collapse.is_collapsed(labels, constant))

  def test_one_label_is_nan(self):
    ones = np.ones(4, int)
    self.assertTrue(np.isnan(collapse.excess(ones, ones)))

  def test_sound_model_is_not_flagged(self):
    labels = np.arange(100) % 10
    self.assertFalse(collapse.is_collapsed(labels, labels))
    some_wrong = np.where(np.arange(100) < 20, (labels + 1) % 10, labels)
    self.assertFalse(collapse.is_collapsed(labels, some_wrong))

  def test_random_guesses_are_flagged_by_their_recall(self):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    guesses = rng.integers(0, 10, 1000)
    self.assertLess(collapse.excess(labels, guesses), 0.1)
    self.assertTrue(collapse.is_collapsed(labels, guesses))

  def test_few_classes_are_flagged(self):
    labels = np.arange(100) % 10
    four = np.where(labels < 4, labels, labels % 4)
    self.assertTrue(collapse.is_collapsed(labels, four))

  def test_excess_counts_from_that_of_retraining(self):
    labels = np.arange(100) % 4
    guesses = np.where(np.arange(100) < 20, 0, labels)
    self.assertTrue(collapse.is_collapsed(labels, guesses))
    self.assertFalse(
      collapse.is_collapsed(labels, guesses, retrain_excess=0.15)
    )


class GapsTest(absltest.TestCase):
  def test_worked_example(self):
    # EX4, where UA = 1 - A_f has the same difference as A_f.
    unlearned = dict(zip(gaps.AVERAGED, (0.95, 0.99, 0.90, 0.55), strict=True))
    retrained = dict(zip(gaps.AVERAGED, (0.92, 0.995, 0.92, 0.5), strict=True))
    self.assertAlmostEqual(gaps.average_gap(unlearned, retrained), 0.02625)
    self.assertEqual(gaps.average_gap(retrained, retrained), 0.0)


class CostTest(absltest.TestCase):
  def test_worked_example(self):
    # EX25.
    self.assertEqual(cost.rte(120.0, 12.0), 10.0)
    self.assertAlmostEqual(cost.rte(120.0, 12.0, setup_s=30.0), 2.857143, 6)
    many = cost.rte(120.0, 12.0, setup_s=30.0, requests=10)
    self.assertAlmostEqual(many, 8.0)
    self.assertEqual(cost.rte(7.0, 7.0), 1.0)

  def test_bad_input(self):
    with self.assertRaisesRegex(ValueError, 'not all 0, got 1.0, 0.0 and 0.0'):
      cost.rte(1.0, 0.0)
    with self.assertRaisesRegex(ValueError, 'requests must be >= 1, got 0'):
      cost.rte(1.0, 1.0, requests=0)


class BetweenTest(absltest.TestCase):
  def test_worked_examples(self):
    def measured(p, losses, forget, retain, test):
      values = dict(zip(gaps.AVERAGED, (forget, retain, test), strict=False))
      labels = np.zeros(1, int)
      return measure.Measured(
        values, {}, labels, labels, np.array([p]), np.array(losses)
      )

    first = measured((0.9, 0.1), (0.1, 0.2, 0.4), 0.95, 0.99, 0.90)
    second = measured((0.1, 0.9), (0.3, 0.5, 0.9), 0.92, 0.995, 0.92)
    found = measure.between(first, second)
    want = {
      'distance.js': 0.368064,  # EX19.
      'distance.activation': 1.131371,
      'distance.loss_wasserstein': 0.333333,  # EX10.
      'tow': 0.945847,  # EX5.
    }
    self.assertEqual(set(found), set(want))
    for name, value in want.items():
      self.assertAlmostEqual(found[name], value, places=6)


class PopulationMiaTest(parameterized.TestCase):
  def test_losses_equal_scipy(self):
    logits = np.random.default_rng(0).normal(size=(7, 5)) * 30
    labels = np.arange(7) % 5
    want = -scipy.special.log_softmax(logits, -1)[np.arange(7), labels]
    np.testing.assert_allclose(
      population_mia.cross_entropy(logits, labels), want, atol=1e-12
    )

  def test_losses_that_are_not_finite_are_clipped(self):
    logits = np.array([[np.nan, 0.0], [-np.inf, 0.0]])
    got = population_mia.cross_entropy(logits, np.array([0, 0]))
    np.testing.assert_array_equal(got, [1e4, 1e4])

  def test_best_threshold_of_the_worked_example(self):
    # EX8: "member if loss <= .2" and "<= .4" are equally good, 0.8333.
    members, others = np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.5, 0.9])
    threshold = population_mia.best_threshold(-members, -others)
    accuracies = (-members > threshold).mean() + (-others < threshold).mean()
    self.assertAlmostEqual(accuracies / 2, 5 / 6)
    self.assertTrue(0.4 < -threshold < 0.5)  # The lower score of the two.

  @parameterized.parameters(range(5))
  def test_best_threshold_equals_trying_all(self, seed):
    rng = np.random.default_rng(seed)
    members = np.round(rng.normal(0.5, 1, 20), 1)
    others = np.round(rng.normal(0, 1, 13), 1)

    def right(t):
      return (members > t).mean() + (others < t).mean()

    best = max(right(t + 0.05) for t in np.arange(-5, 5, 0.1))
    threshold = population_mia.best_threshold(members, others)
    self.assertAlmostEqual(right(threshold), best)

  def test_paper_loss_counts_forgotten_above_the_threshold(self):
    retain, test = np.array([0.0, 0.1, 0.2]), np.array([1.0, 2.0, 3.0])
    forget = np.array([0.0, 0.5, 0.7, 4.0])  # The threshold is 0.6.
    self.assertEqual(population_mia.paper_loss(forget, retain, test), 0.5)
    self.assertEqual(population_mia.paper_loss(retain, retain, test), 0.0)
    self.assertEqual(population_mia.paper_loss(test, retain, test), 1.0)

  def test_empty_sets(self):
    some = np.array([1.0])
    for sets in ([EMPTY, some, some], [some, EMPTY, some], [some, some, EMPTY]):
      self.assertTrue(np.isnan(population_mia.paper_loss(*sets)))
    with self.assertRaisesRegex(ValueError, 'must not be empty, got 1 and 0'):
      population_mia.best_threshold(some, EMPTY)


class StatisticsTest(parameterized.TestCase):
  def test_t_interval_worked_example(self):
    # EX28.
    mean, low, high, method = statistics.t_interval(
      np.array([0.90, 0.92, 0.91, 0.93, 0.89])
    )
    self.assertEqual(method, 't')
    np.testing.assert_allclose(
      [mean, low, high], [0.91, 0.890368, 0.929632], atol=1e-6
    )

  def test_t_interval_leaves_nan_out(self):
    got = statistics.t_interval(np.array([1.0, np.nan, 3.0]))
    self.assertEqual(got, statistics.t_interval(np.array([1.0, 3.0])))
    one = statistics.t_interval(np.array([1.0, np.nan]))
    self.assertEqual((one.mean, one.method), (1.0, 'none'))
    self.assertTrue(np.isnan(one.low))
    self.assertTrue(np.isnan(statistics.t_interval(np.array([])).mean))

  def test_wilson_equals_formula(self):
    share, n, z = 0.9, 50, 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n)
    half *= np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    got = statistics.wilson_interval(share, n)
    np.testing.assert_allclose(
      [got.low, got.high], [centre - half, centre + half], atol=1e-6
    )
    self.assertEqual(statistics.wilson_interval(share, 0).method, 'none')

  def test_noise_floor_is_within_groups(self):
    groups = [[0.9, 0.8], [0.1, 0.1, 0.1], [0.5], [np.nan, 0.2]]
    self.assertAlmostEqual(
      statistics.noise_floor(groups), np.percentile([0.1, 0, 0, 0], 95)
    )
    self.assertTrue(np.isnan(statistics.noise_floor([[0.5]])))


if __name__ == '__main__':
  absltest.main()
