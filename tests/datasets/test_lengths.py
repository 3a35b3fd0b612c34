"""Utterances of similar length together."""

import collections

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.lengths import by_length
from unlearn_jax.datasets.lengths import length_buckets
from unlearn_jax.methods import registry

LENGTHS = np.random.default_rng(0).integers(1, 1_000, 500)
BATCH = 10


def moved(epoch, seed=1):
  return by_length(epoch, LENGTHS, np.random.default_rng(seed))


def one_pass(rows, seed=0):
  rng = np.random.default_rng(seed)
  return batches.one_pass(np.asarray(rows), BATCH, rng)


def counts(side):
  return collections.Counter(side.rows[side.mask > 0].tolist())


def longest(side):
  """Returns the longest of each step, 0 where all is padding."""
  return np.where(side.mask > 0, LENGTHS[side.rows], 0).max(1)


class BucketsTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 1.25, 2.0)
  def test_buckets_hold_each_utterance_once(self, ratio):
    lengths = np.random.default_rng(0).integers(50, 400, 300)
    buckets = length_buckets(lengths, ratio)
    rows = np.concatenate([rows for _, rows in buckets])
    np.testing.assert_array_equal(np.sort(rows), np.arange(300))
    for crop_frames, rows in buckets:
      self.assertEqual(crop_frames, lengths[rows].max())
      self.assertLessEqual(crop_frames, ratio * lengths[rows].min())
    sizes = [crop_frames for crop_frames, _ in buckets]
    self.assertEqual(sizes, sorted(set(sizes)))
    if ratio > 1:  # ln(400 / 50) / ln(ratio), rounded up.
      self.assertLessEqual(len(buckets), np.ceil(np.log(8) / np.log(ratio)))

  def test_worked_example_of_buckets(self):
    got = length_buckets(np.array([10, 4, 8, 5, 9]))
    want = [(5, [1, 3]), (10, [0, 2, 4])]
    self.assertEqual([(n, r.tolist()) for n, r in got], want)

  def test_no_utterances(self):
    self.assertEmpty(length_buckets(np.zeros(0, int)))

  def test_bad_ratio(self):
    with self.assertRaisesRegex(ValueError, 'ratio must be at least 1'):
      length_buckets(np.array([3, 4]), 0.9)


class ByLengthTest(parameterized.TestCase):
  def test_every_row_once_in_batches_of_similar_length(self):
    rows = np.arange(50, 485)
    before = one_pass(rows)
    _, after = moved((None, before))
    self.assertEqual(counts(after), counts(before))
    self.assertEqual(sorted(after.mask.sum(1)), sorted(before.mask.sum(1)))
    ranks = np.searchsorted(np.sort(LENGTHS[rows]), LENGTHS[after.rows])
    ranks = ranks[after.mask.all(1)]
    self.assertLess((ranks.max(1) - ranks.min(1)).max(), BATCH + 5)  # Of ties.
    self.assertTrue((np.diff(longest(after)) < 0).any())  # In no order.

  def test_chance_is_that_of_the_generator(self):
    before = None, one_pass(range(435))
    _, first = moved(before)
    for got, want in zip(moved(before)[1], first, strict=True):
      np.testing.assert_array_equal(got, want)
    self.assertTrue((moved(before, seed=2)[1].rows != first.rows).any())
    np.testing.assert_array_equal(before[1].rows, one_pass(range(435)).rows)

  def test_short_ones_of_both_sets_meet(self):
    before = one_pass(range(200)), one_pass(range(200, 400))
    forget, retain = map(longest, moved(before))
    np.testing.assert_array_equal(np.argsort(forget), np.argsort(retain))
    silent = sum(np.maximum(*map(longest, before)))
    self.assertLess(sum(np.maximum(forget, retain)), 0.7 * silent)

  def test_a_set_that_comes_again_stays_mixed(self):
    """As often in each pass; a batch that is a whole pass stays as it is."""
    rng = np.random.default_rng(0)
    before = batches.repeat(np.arange(20), BATCH, 10, rng), one_pass(range(100))
    forget, retain = moved(before)
    for step in range(0, 10, 2):
      pass_ = forget.rows[step : step + 2]
      self.assertLen(set(pass_.ravel()), 20)
      self.assertNotEqual(*longest(forget)[step : step + 2])
    self.assertEqual(counts(retain), counts(before[1]))
    few = batches.repeat(np.arange(7), BATCH, 10, rng)
    alone, _ = moved((few, one_pass(range(100))))
    for step in range(10):
      self.assertLen(set(alone.rows[step][alone.mask[step] > 0]), 7)

  def test_phases_stay_apart(self):
    """Steps on one set alone, before those on the other."""
    forget, retain = one_pass(range(45)), one_pass(range(100, 200))
    phases = (
      batches.concatenate([forget, batches.empty(10, BATCH)], BATCH),
      batches.concatenate([batches.empty(5, BATCH), retain], BATCH),
    )
    got = moved(phases)
    for side, before in zip(got, phases, strict=True):
      self.assertEqual(counts(side), counts(before))
      np.testing.assert_array_equal(side.mask.any(1), before.mask.any(1))

  def test_no_steps(self):
    got = moved((None, batches.empty(0, BATCH)))
    self.assertEqual(got[1].rows.shape, (0, BATCH))

  @parameterized.parameters(
    name for name, spec in registry.METHODS.items() if spec.preset is not None
  )
  def test_epochs_of_every_method(self, name):
    spec = registry.spec(name)
    preset = spec.preset
    for epoch in range(preset.epochs):
      before = spec.epoch_batches(
        preset, np.arange(60), np.arange(60, 500), epoch=epoch, seed=(0,)
      )
      for got, want in zip(moved(before), before, strict=True):
        self.assertEqual(got is None, want is None)
        if want is not None:
          self.assertEqual(counts(got), counts(want))
          np.testing.assert_array_equal(got.mask.any(1), want.mask.any(1))


if __name__ == '__main__':
  absltest.main()
