"""Verification: the worked example, a brute force twin, scikit-learn."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics

from unlearn_jax.datasets.trials import Trials
from unlearn_jax.evaluation import verification
from unlearn_jax.evaluation.verification import cosine_scores
from unlearn_jax.evaluation.verification import eer
from unlearn_jax.evaluation.verification import make_trials
from unlearn_jax.evaluation.verification import min_dcf

# EX22.
TARGETS = np.array([0.9, 0.8, 0.6, 0.4])
OTHERS = np.array([0.7, 0.3, 0.2, 0.1])
EMPTY = np.zeros(0)
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=12).map(np.array)


def naive_rates(targets, others):
  """FNR and FPR of all thresholds, one pair at a time."""
  thresholds = [*sorted({*targets, *others}), np.inf]
  return thresholds, [
    (
      sum(s < t for s in targets) / len(targets),
      sum(s >= t for s in others) / len(others),
    )
    for t in thresholds
  ]


def naive_eer(targets, others):
  _, rates = naive_rates(targets, others)
  for (fnr0, fpr0), (fnr1, fpr1) in zip(rates, rates[1:], strict=False):
    if fnr0 < fpr0 and fnr1 >= fpr1:
      # Where two lines over the part of the way between thresholds cross.
      part = (fpr0 - fnr0) / ((fnr1 - fnr0) - (fpr1 - fpr0))
      return fnr0 + part * (fnr1 - fnr0)
  raise AssertionError('the rates never cross')


def naive_dcf(targets, others, prior, c_miss, c_fa):
  _, rates = naive_rates(targets, others)
  costs = [
    c_miss * prior * fnr + c_fa * (1 - prior) * fpr for fnr, fpr in rates
  ]
  return min(costs) / min(c_miss * prior, c_fa * (1 - prior))


def noisy_scores(seed, gap=1.0, decimals=None):
  rng = np.random.default_rng(seed)
  targets = rng.normal(gap, 1, rng.integers(2, 60))
  others = rng.normal(0, 1, rng.integers(2, 60))
  if decimals is None:
    return targets, others
  return np.round(targets, decimals), np.round(others, decimals)


def test_worked_example():
  assert eer(TARGETS, OTHERS) == 0.25
  for prior in (0.05, 0.01):
    assert min_dcf(TARGETS, OTHERS, prior=prior) == pytest.approx(0.5)


def test_interpolates_between_thresholds():
  # At .5 the rates are 0 and 1/2, at .7 they are 1/3 and 1/2, at .8 1/3 and 0:
  # FNR stays at 1/3 while FPR falls past it.
  assert eer(np.array([0.5, 0.8, 0.9]), np.array([0.1, 0.7])) == pytest.approx(
    1 / 3
  )
  # At .2 the rates are 0 and 1/3; at inf 1 and 0: both move, and meet at 1/4.
  assert eer(np.array([0.2]), np.array([0.1, 0.0, 0.2])) == pytest.approx(1 / 4)


@pytest.mark.parametrize('decimals', [None, 1, 0])
@pytest.mark.parametrize('seed', range(6))
def test_equals_trying_all_thresholds(seed, decimals):
  pair = noisy_scores(seed, decimals=decimals)
  assert eer(*pair) == pytest.approx(naive_eer(*pair), abs=1e-12)
  for prior, c_miss, c_fa in ((0.05, 1, 1), (0.01, 1, 1), (0.5, 10, 1)):
    got = min_dcf(*pair, prior=prior, c_miss=c_miss, c_fa=c_fa)
    want = naive_dcf(*pair, prior, c_miss, c_fa)
    assert got == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize('seed', range(6))
def test_equals_scikit_learn(seed):
  targets, others = noisy_scores(seed, decimals=1)
  labels = np.arange(len(targets) + len(others)) < len(targets)
  fpr, tpr, _ = sklearn.metrics.roc_curve(
    labels, np.concatenate([targets, others]), drop_intermediate=False
  )
  # Along the curve, both rates are linear in the position.
  where = np.arange(len(fpr))
  crossing = scipy.optimize.brentq(
    lambda x: 1 - np.interp(x, where, tpr) - np.interp(x, where, fpr),
    0,
    len(fpr) - 1,
  )
  want = np.interp(crossing, where, fpr)
  assert eer(targets, others) == pytest.approx(want, abs=1e-9)
  cost = (0.05 * (1 - tpr) + 0.95 * fpr).min() / 0.05
  assert min_dcf(targets, others, prior=0.05) == pytest.approx(cost)


@hypothesis.given(SCORES, SCORES)
def test_ranges_and_invariances(targets, others):
  rate = eer(targets, others)
  assert 0 <= rate <= 1
  assert 0 <= min_dcf(targets, others, prior=0.05) <= 1
  # Any rising map of the scores leaves both; a falling one swaps the sides.
  assert eer(3.0 * targets + 5, 3.0 * others + 5) == pytest.approx(rate)
  assert eer(np.exp(targets), np.exp(others)) == pytest.approx(rate)
  assert eer(-others, -targets) == pytest.approx(rate)


def test_limits():
  assert eer(TARGETS + 1, OTHERS) == 0.0
  assert min_dcf(TARGETS + 1, OTHERS, prior=0.01) == 0.0
  assert eer(OTHERS, TARGETS + 1) == 1.0
  assert min_dcf(OTHERS, TARGETS + 1, prior=0.01) == 1.0
  same = np.full(7, 0.3)
  assert eer(same, np.full(3, 0.3)) == 0.5
  assert min_dcf(same, same, prior=0.05) == 1.0
  assert eer(TARGETS, TARGETS) == 0.5


def test_one_class_empty_is_nan():
  for pair in ((EMPTY, OTHERS), (TARGETS, EMPTY)):
    assert np.isnan(eer(*pair))
    assert np.isnan(min_dcf(*pair, prior=0.05))


def test_bounds_are_named():
  with pytest.raises(ValueError, match=r'prior must be in \(0, 1\), got 1'):
    min_dcf(TARGETS, OTHERS, prior=1)
  with pytest.raises(ValueError, match='costs must be > 0, got 1.0 and 0'):
    min_dcf(TARGETS, OTHERS, prior=0.1, c_fa=0)


def test_cosines_equal_the_formula_and_zero_vectors_have_none():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 20, 5))
  want = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
  np.testing.assert_allclose(cosine_scores(a, b), want, atol=1e-11)
  turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
  np.testing.assert_allclose(
    cosine_scores(7.0 * a @ turn, 1e-3 * b @ turn), want, atol=1e-11
  )
  np.testing.assert_array_equal(cosine_scores(np.zeros((20, 5)), b), 0.0)
  np.testing.assert_array_equal(cosine_scores(a, a), 1.0)
  np.testing.assert_array_equal(cosine_scores(1e300 * a, -1e-300 * a), -1.0)


def test_bad_embeddings_are_refused_in_one_line():
  bad = np.array([[1.0, np.nan], [1.0, 2.0]])
  with pytest.raises(ValueError, match='must be finite, got 1 of 2 that are'):
    cosine_scores(bad, np.ones((2, 2)))
  with pytest.raises(ValueError, match=r'got \(2, 2\) and \(2, 3\)'):
    cosine_scores(bad, np.ones((2, 3)))
  trials = Trials(np.array([True]), *np.array([[0], [1]]))
  with pytest.raises(ValueError, match='must be finite'):
    verification.verify(bad, trials)


def test_verify_scores_the_trials():
  embeddings = np.array([[1.0, 0], [2, 0], [0, 1], [0, 3]])
  trials = Trials(
    np.array([True, True, False, False]),
    np.array([0, 2, 0, 1]),
    np.array([1, 3, 2, 3]),
  )
  assert verification.verify(embeddings, trials) == (0.0, 0.0, 0.0)
  wrong = trials._replace(target=~trials.target)
  assert verification.verify(embeddings, wrong) == (1.0, 1.0, 1.0)


class TestTrials:
  speaker = np.repeat(np.arange(4), 12)
  session = np.tile(np.repeat(np.arange(3), 4), 4)
  keyword = np.tile(np.arange(4), 12)

  def make(self, own=(0,), keyword=None, session=None, seed=0):
    word = self.keyword if keyword is None else keyword
    when = self.session if session is None else session
    is_own = np.isin(self.speaker, own)
    everyone = np.full(48, True)
    return make_trials(self.speaker, when, word, is_own, everyone, seed=seed)

  def test_targets_are_all_pairs_of_a_speaker_from_two_sessions(self):
    target, first, second = self.make()
    pairs = set(zip(first[target], second[target], strict=True))
    assert len(pairs) == target.sum() == 4 * 3  # Keywords, pairs of sessions.
    for a, b in pairs:
      assert self.speaker[a] == self.speaker[b] == 0
      assert self.session[a] != self.session[b]
      assert self.keyword[a] == self.keyword[b]

  def test_nontargets_are_of_others_with_the_same_words(self):
    target, first, second = self.make(own=(0, 1))
    a, b = first[~target], second[~target]
    assert len(a) == 5 * target.sum()
    assert np.isin(self.speaker[a], (0, 1)).all()
    assert (self.speaker[a] != self.speaker[b]).all()
    assert (self.keyword[a] == self.keyword[b]).all()
    assert set(self.speaker[b]) == {0, 1, 2, 3}

  def test_other_words_serve_where_none_is_shared(self):
    alone = np.arange(48)  # No word is said twice.
    target, first, second = self.make(keyword=alone)
    assert target.sum() == 12 * 8 / 2
    assert (self.speaker[second[~target]] != 0).all()

  def test_same_seed_same_trials(self):
    for one, two in zip(self.make(), self.make(), strict=True):
      np.testing.assert_array_equal(one, two)
    other = self.make(seed=1)
    assert (self.make().second != other.second).any()

  def test_one_session_gives_no_trial(self):
    trials = self.make(session=np.zeros(48, int))
    assert [len(x) for x in trials] == [0, 0, 0]
    assert np.isnan(verification.verify(np.ones((48, 2)), trials)).all()
