"""Attacks on one model, their ROC curves, and non-members that match."""

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from unlearn_jax.evaluation import matching
from unlearn_jax.evaluation import population_mia as mia
from unlearn_jax.evaluation import roc

EMPTY = np.array([])
# EX8.
MEMBER_LOSSES = np.array([0.1, 0.2, 0.4])
OTHER_LOSSES = np.array([0.3, 0.5, 0.9])

SCORES = hnp.arrays(
  np.float64, st.integers(1, 30), elements=st.floats(-50, 50, width=16)
)


class RocTest(parameterized.TestCase):
  def test_worked_example(self):
    self.assertAlmostEqual(roc.auc(-MEMBER_LOSSES, -OTHER_LOSSES), 8 / 9)

  def test_constant_scores_give_one_half(self):
    self.assertEqual(roc.auc(np.ones(3), np.ones(5)), 0.5)

  def test_empty_sides(self):
    self.assertTrue(np.isnan(roc.auc(EMPTY, np.ones(3))))
    self.assertTrue(np.isnan(roc.auc(np.ones(3), EMPTY)))
    self.assertTrue(np.isnan(roc.tpr_at(EMPTY, np.ones(3_000), 0.01)))

  @hypothesis.given(SCORES, SCORES)
  def test_auc_is_the_share_of_pairs_in_order(self, positives, negatives):
    pairs = np.sign(positives[:, None] - negatives)
    self.assertAlmostEqual(
      roc.auc(positives, negatives), (pairs.mean() + 1) / 2
    )

  @hypothesis.given(SCORES, SCORES)
  def test_curve_rises_from_0_to_1(self, positives, negatives):
    for rates in roc.curve(positives, negatives):
      self.assertEqual((rates[0], rates[-1]), (0.0, 1.0))
      self.assertTrue((np.diff(rates) >= 0).all())

  def test_rate_at_needs_ten_times_the_inverse(self):
    negatives = np.arange(1_000.0)
    positives = np.array([990.0, 989.0, 5_000.0, 0.0])
    # Ten of a thousand lie above 989.
    self.assertEqual(roc.tpr_at(positives, negatives, 0.01), 0.5)
    self.assertTrue(np.isnan(roc.tpr_at(positives, negatives[1:], 0.01)))


class LossAttacksTest(parameterized.TestCase):
  def test_worked_example(self):
    got = mia.loss_threshold(MEMBER_LOSSES, OTHER_LOSSES)
    self.assertAlmostEqual(got.auc, 8 / 9)
    self.assertTrue(np.isnan(got.tpr_at_1e2) and np.isnan(got.tpr_at_1e3))

  def test_threshold_is_counted_where_it_was_not_chosen(self):
    # Where there is nothing to find, choosing and counting on the same 20
    # examples finds 0.63 on average.
    rng = np.random.default_rng(0)
    found = [
      mia.loss_threshold(rng.random(10), rng.random(10), seed=k).accuracy
      for k in range(400)
    ]
    self.assertAlmostEqual(np.mean(found), 0.5, delta=0.02)

  def test_separate_losses_are_told_apart(self):
    low, high = np.linspace(0, 1, 50), np.linspace(2, 3, 50)
    got = mia.loss_threshold(low, high)
    self.assertEqual((got.auc, got.accuracy), (1.0, 1.0))
    self.assertGreater(mia.loss_logistic(low, high), 0.95)
    self.assertEqual(mia.loss_threshold(high, low).auc, 0.0)

  def test_logistic_finds_chance_where_there_is_nothing(self):
    rng = np.random.default_rng(1)
    found = [
      mia.loss_logistic(rng.random(50), rng.random(50), seed=k)
      for k in range(40)
    ]
    self.assertAlmostEqual(np.mean(found), 0.5, delta=0.05)

  def test_small_sets_are_not_defined(self):
    one = np.ones(1)
    self.assertTrue(np.isnan(mia.loss_threshold(one, one).accuracy))
    self.assertTrue(np.isnan(mia.loss_threshold(EMPTY, one).auc))
    self.assertTrue(np.isnan(mia.loss_logistic(np.ones(19), np.ones(50))))

  @hypothesis.given(SCORES, SCORES)
  def test_ranges(self, members, others):
    got = mia.loss_threshold(members, others)
    for value in got:
      self.assertTrue(np.isnan(value) or 0 <= value <= 1)


class FeaturesTest(parameterized.TestCase):
  def test_worked_example(self):
    # EX9.
    p = np.array([[0.7, 0.2, 0.1]])
    got = mia.confidence_features(np.log(p), np.array([0]))
    want = [1, 0.7, 0.801819, 0.162167, 0.7, 0.2, 0.1]
    np.testing.assert_allclose(got, [want], atol=1e-6)

  def test_equals_a_loop(self):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)) * 3, rng.integers(0, 4, 6)
    got = mia.confidence_features(logits, labels)
    for row, z, y in zip(got, logits, labels, strict=True):
      p = np.exp(z) / np.exp(z).sum()
      modified = -(1 - p[y]) * np.log(p[y])
      modified -= sum(p[c] * np.log(1 - p[c]) for c in range(4) if c != y)
      want = [z.argmax() == y, p.max(), -(p * np.log(p)).sum(), modified]
      np.testing.assert_allclose(row, [*want, *p], atol=1e-12)

  def test_extreme_logits_stay_finite(self):
    logits = np.array([[1e6, 0.0, -1e6], [0.0, np.inf, 0.0], [np.nan, 0, 0]])
    for label in range(3):
      got = mia.confidence_features(logits, np.full(3, label))
      self.assertTrue(np.isfinite(got).all())


class FittedAttacksTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)

    def features(scale, n):
      labels = rng.integers(0, 5, n)
      logits = rng.normal(size=(n, 5)) + scale * np.eye(5)[labels]
      return mia.confidence_features(logits, labels)

    self.sure, self.unsure = features(8.0, 200), features(1.0, 200)
    self.sure_too, self.unsure_too = features(8.0, 50), features(1.0, 50)

  def test_forgotten_are_called_what_they_look_like(self):
    fitted = self.sure, self.unsure
    self.assertLess(mia.svc_five(self.sure_too, *fitted), 0.1)
    self.assertGreater(mia.svc_five(self.unsure_too, *fitted), 0.8)
    self.assertGreater(mia.entropy_attack(self.sure_too, *fitted), 0.9)
    self.assertLess(mia.entropy_attack(self.unsure_too, *fitted), 0.2)

  def test_empty_sets_are_nan(self):
    none = self.sure[:0]
    for sets in (
      (none, self.sure, self.unsure),
      (self.sure, none, self.unsure),
      (self.sure, self.unsure, none),
    ):
      self.assertTrue(np.isnan(mia.svc_five(*sets)))
      self.assertTrue(np.isnan(mia.entropy_attack(*sets)))


class MatchingTest(parameterized.TestCase):
  def test_agrees_in_all_then_in_the_first(self):
    members = np.array([0, 0, 1, 2]), np.array([7, 8, 7, 7])
    others = np.array([1, 0, 0, 0, 3]), np.array([9, 8, 8, 5, 7])
    left, right = matching.match(members, others)
    pairs = dict(zip(left.tolist(), right.tolist(), strict=True))
    self.assertEqual(set(pairs), {0, 1, 2})  # There is no other 2.
    self.assertIn(pairs[1], (1, 2))  # The same class and speaker.
    self.assertEqual(pairs[2], 0)  # The same class.
    self.assertIn(pairs[0], {1, 2, 3} - {pairs[1]})

  @hypothesis.given(
    st.lists(st.integers(0, 3), max_size=20),
    st.lists(st.integers(0, 3), max_size=20),
  )
  def test_as_many_pairs_as_there_can_be(self, members, others):
    members, others = np.array(members, int), np.array(others, int)
    left, right = matching.match([members], [others])
    np.testing.assert_array_equal(members[left], others[right])
    self.assertLen(set(left.tolist()), len(left))
    self.assertLen(set(right.tolist()), len(right))
    want = sum(min((members == c).sum(), (others == c).sum()) for c in range(4))
    self.assertLen(left, want)

  def test_bad_input(self):
    with self.assertRaisesRegex(ValueError, 'at least one, got 1 and 2'):
      matching.match([np.ones(2)], [np.ones(2), np.ones(2)])
    with self.assertRaisesRegex(ValueError, r'one length, got \[2, 3\]'):
      matching.match([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)])


if __name__ == '__main__':
  absltest.main()
