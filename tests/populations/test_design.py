"""Who sees what: every utterance in exactly half of the training sets."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.populations import design

SPEAKERS = np.repeat(np.arange(7), [3, 1, 4, 1, 5, 9, 2])


class HalfDesignTest(parameterized.TestCase):
  @parameterized.product(members=(2, 8, 32), seed=(0, 1))
  def test_each_utterance_is_in_half_of_the_sets(self, members, seed):
    seen = design.half_design(members, np.arange(101), seed=seed)
    self.assertEqual(seen.shape, (members, 101))
    np.testing.assert_array_equal(seen.sum(0), members // 2)
    self.assertBetween(seen.sum(1).min(), 50, 51)

  def test_a_group_goes_in_as_a_whole(self):
    seen = design.half_design(16, SPEAKERS, seed=0)
    for speaker in range(7):
      columns = seen[:, SPEAKERS == speaker]
      np.testing.assert_array_equal(
        columns, columns[:, :1].repeat(columns.shape[1], axis=1)
      )
    np.testing.assert_array_equal(seen.sum(0), 8)

  def test_pairs_of_utterances_are_not_tied(self):
    seen = design.half_design(400, np.arange(40), seed=0)
    together = np.corrcoef(seen.T) - np.eye(40)
    self.assertLess(np.abs(together).max(), 0.3)

  def test_depends_on_the_seed_alone(self):
    first, same, other = (
      design.half_design(8, np.arange(30), seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    self.assertTrue((first != other).any())

  @parameterized.parameters(0, 1, 3)
  def test_needs_pairs(self, members):
    with self.assertRaisesRegex(ValueError, 'num_members must be even'):
      design.half_design(members, np.arange(4), seed=0)

  def test_needs_two_groups(self):
    with self.assertRaisesRegex(ValueError, '>= 2 groups, got 1'):
      design.half_design(4, np.zeros(9), seed=0)


class ForgetDesignTest(parameterized.TestCase):
  @parameterized.parameters(0.1, 0.5, 1.0)
  def test_forgets_a_share_of_what_was_seen(self, fraction):
    seen = design.half_design(8, np.arange(100), seed=0)
    forgotten = design.forget_design(
      seen, np.arange(100), fraction=fraction, seed=1
    )
    self.assertFalse((forgotten & ~seen).any())
    np.testing.assert_array_equal(forgotten.sum(1), round(50 * fraction))

  def test_forgets_whole_groups_and_at_least_one(self):
    seen = design.half_design(8, SPEAKERS, seed=0)
    forgotten = design.forget_design(seen, SPEAKERS, fraction=0.01, seed=1)
    for row in forgotten:
      (speaker,) = np.unique(SPEAKERS[row])
      self.assertEqual(row.sum(), (speaker == SPEAKERS).sum())

  def test_refuses_part_of_a_group(self):
    seen = design.half_design(4, np.arange(len(SPEAKERS)), seed=0)
    with self.assertRaisesRegex(ValueError, 'has seen part of group'):
      design.forget_design(seen, SPEAKERS, fraction=0.5, seed=0)

  @parameterized.parameters(0.0, -1.0, 1.5, np.nan)
  def test_bounds_of_the_fraction(self, fraction):
    with self.assertRaisesRegex(ValueError, 'fraction must be in'):
      design.forget_design(
        np.ones((2, 3), bool), np.arange(3), fraction=fraction, seed=0
      )


class CutTest(parameterized.TestCase):
  @parameterized.parameters(1, 3, 5)
  def test_parts_make_up_what_is_forgotten(self, parts):
    seen = design.half_design(8, np.arange(100), seed=0)
    forgotten = design.forget_design(seen, np.arange(100), fraction=0.4, seed=1)
    cut = design.cut(forgotten, np.arange(100), parts=parts, seed=2)
    self.assertEqual(cut.shape, (8, parts, 100))
    np.testing.assert_array_equal(cut.sum(1), forgotten)
    sizes = cut.sum(2)
    self.assertLessEqual(sizes.max() - sizes.min(), 1)

  def test_groups_stay_whole(self):
    seen = design.half_design(8, SPEAKERS, seed=0)
    cut = design.cut(seen, SPEAKERS, parts=2, seed=0)
    for speaker in np.unique(SPEAKERS):
      columns = cut[:, :, SPEAKERS == speaker]
      np.testing.assert_array_equal(columns.any(-1), columns.all(-1))

  def test_refuses_more_parts_than_groups(self):
    seen = design.half_design(4, SPEAKERS, seed=0)
    with self.assertRaisesRegex(ValueError, 'do not make 99 parts'):
      design.cut(seen, SPEAKERS, parts=99, seed=0)
    with self.assertRaisesRegex(ValueError, 'parts must be >= 1, got 0'):
      design.cut(seen, SPEAKERS, parts=0, seed=0)


if __name__ == '__main__':
  absltest.main()
