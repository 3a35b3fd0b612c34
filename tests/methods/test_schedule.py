"""Layouts of an epoch: which rows stand beside which."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.methods import registry
from unlearn_jax.methods import schedule
from unlearn_jax.methods.preset import Preset

FORGET, RETAIN = np.arange(100, 110), np.arange(200, 223)


def rng(seed=0):
  return np.random.default_rng(seed)


def lay_out(fun, forget, retain, forget_batch, retain_batch, seed=0):
  return fun(
    forget,
    retain,
    forget_batch=forget_batch,
    retain_batch=retain_batch,
    rng=rng(seed),
  )


def visits(batches):
  """The rows that count, in order; padding is row 0 with mask 0."""
  np.testing.assert_array_equal(np.isin(batches.mask, (0.0, 1.0)), True)
  np.testing.assert_array_equal(batches.rows[batches.mask == 0], 0)
  return batches.rows[batches.mask == 1]


class JointTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('retain has more steps', 4, 5, 5),
    ('forget has more steps', 2, 10, 5),
    ('as many steps', 5, 12, 2),
    ('one step', 16, 32, 1),
  )
  def test_shapes_and_steps(self, forget_batch, retain_batch, steps):
    forget, retain = lay_out(
      schedule.joint, FORGET, RETAIN, forget_batch, retain_batch
    )
    for side, size in ((forget, forget_batch), (retain, retain_batch)):
      self.assertEqual(side.rows.shape, (steps, size))
      self.assertEqual(side.mask.shape, (steps, size))
      self.assertEqual(side.rows.dtype, np.int32)
      self.assertEqual(side.mask.dtype, np.float32)

  def test_longer_set_is_visited_once_and_shorter_cycled(self):
    forget, retain = lay_out(schedule.joint, FORGET, RETAIN, 4, 5)
    np.testing.assert_array_equal(np.sort(visits(retain)), RETAIN)
    seen = visits(forget)
    # 5 full batches of 4 over 10 rows: two passes, each of every row.
    self.assertLen(seen, 20)
    for part in (seen[:10], seen[10:]):
      np.testing.assert_array_equal(np.sort(part), FORGET)
    self.assertTrue((seen[:10] != seen[10:]).any())

  def test_longer_forget_set_is_visited_once(self):
    forget, retain = lay_out(schedule.joint, FORGET, RETAIN, 2, 10)
    np.testing.assert_array_equal(np.sort(visits(forget)), FORGET)
    seen = visits(retain)
    self.assertLen(seen, 50)
    for part in (seen[:23], seen[23:46]):
      np.testing.assert_array_equal(np.sort(part), RETAIN)

  def test_sets_of_as_many_steps_are_both_visited_once(self):
    forget, retain = lay_out(schedule.joint, FORGET, RETAIN, 5, 12)
    np.testing.assert_array_equal(np.sort(visits(forget)), FORGET)
    np.testing.assert_array_equal(np.sort(visits(retain)), RETAIN)

  def test_set_smaller_than_a_batch_is_a_padded_pass_at_each_step(self):
    forget, _ = lay_out(schedule.joint, FORGET, RETAIN, 16, 5)
    np.testing.assert_array_equal(forget.mask.sum(1), np.full(5, 10))
    for rows in forget.rows:
      np.testing.assert_array_equal(np.sort(rows[:10]), FORGET)

  def test_side_that_is_not_needed_stays_none(self):
    forget, retain = lay_out(schedule.joint, FORGET, None, 4, 5)
    self.assertIsNone(retain)
    np.testing.assert_array_equal(np.sort(visits(forget)), FORGET)
    forget, retain = lay_out(schedule.joint, None, RETAIN, 4, 5)
    self.assertIsNone(forget)
    np.testing.assert_array_equal(np.sort(visits(retain)), RETAIN)

  def test_order_follows_the_generator(self):
    one, again, other = (
      lay_out(schedule.joint, FORGET, RETAIN, 4, 5, seed) for seed in (0, 0, 1)
    )
    for side in (0, 1):
      np.testing.assert_array_equal(one[side].rows, again[side].rows)
      self.assertTrue((one[side].rows != other[side].rows).any())


class AlternateTest(parameterized.TestCase):
  def test_one_set_after_the_other(self):
    forget, retain = lay_out(schedule.alternate, FORGET, RETAIN, 4, 5)
    self.assertEqual(forget.rows.shape, (3 + 5, 4))
    self.assertEqual(retain.rows.shape, (3 + 5, 5))
    np.testing.assert_array_equal(forget.mask.sum(1), [4, 4, 2, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(retain.mask.sum(1), [0, 0, 0, 5, 5, 5, 5, 3])
    np.testing.assert_array_equal(np.sort(visits(forget)), FORGET)
    np.testing.assert_array_equal(np.sort(visits(retain)), RETAIN)

  def test_empty_forget_set_leaves_the_retain_sweep(self):
    forget, retain = lay_out(schedule.alternate, FORGET[:0], RETAIN, 4, 5)
    self.assertEqual(forget.rows.shape, (5, 4))
    self.assertEqual(forget.mask.sum(), 0)
    np.testing.assert_array_equal(retain.mask.sum(1), [5, 5, 5, 5, 3])
    np.testing.assert_array_equal(np.sort(visits(retain)), RETAIN)

  def test_both_are_shuffled_by_the_generator(self):
    one, again, other = (
      lay_out(schedule.alternate, FORGET, RETAIN, 4, 5, seed)
      for seed in (0, 0, 1)
    )
    for side in (0, 1):
      np.testing.assert_array_equal(one[side].rows, again[side].rows)
      self.assertTrue((one[side].rows != other[side].rows).any())


class EpochBatchesTest(parameterized.TestCase):
  def epoch(self, name, epoch=0, seed=(3, 1), **preset):
    settings = {'epochs': 4, 'learning_rate': 0.1}
    settings |= {'forget_batch': 4, 'retain_batch': 5}
    return registry.METHODS[name].epoch_batches(
      Preset(**{**settings, **preset}), FORGET, RETAIN, epoch=epoch, seed=seed
    )

  def test_a_set_that_is_not_needed_is_none(self):
    for name, row in registry.METHODS.items():
      given = dict(zip(('forget', 'retain'), self.epoch(name), strict=True))
      got = {side for side, batches in given.items() if batches is not None}
      self.assertEqual(got, row.needs, name)

  def test_layout_of_the_row(self):
    joint, alternate = self.epoch('random_label'), self.epoch('scrub')
    self.assertEqual(joint[0].rows.shape, (5, 4))
    self.assertEqual(alternate[0].rows.shape, (8, 4))

  def test_epoch_and_seed_decide_the_order(self):
    first = self.epoch('random_label')[1].rows
    again = self.epoch('random_label')[1].rows
    np.testing.assert_array_equal(first, again)
    for other in ({'epoch': 1}, {'seed': (4, 1)}):
      rows = self.epoch('random_label', **other)[1].rows
      self.assertTrue((rows != first).any(), other)

  def test_retain_fraction_draws_one_subset_for_all_epochs(self):
    seen = [
      set(visits(self.epoch('random_label', epoch, retain_fraction=0.6)[1]))
      for epoch in range(3)
    ]
    self.assertLen(seen[0], round(0.6 * len(RETAIN)))
    self.assertTrue(seen[0] <= set(RETAIN))
    self.assertEqual(seen, [seen[0]] * 3)
    other = self.epoch('random_label', seed=(4, 1), retain_fraction=0.6)
    self.assertNotEqual(set(visits(other[1])), seen[0])

  def test_smallest_retain_fraction_leaves_one_example(self):
    _, retain = self.epoch('fine_tune', retain_fraction=1e-6)
    self.assertLen(visits(retain), 1)

  def test_forget_set_is_swept_in_the_first_epochs_alone(self):
    counts = [
      self.epoch('scrub', epoch, forget_epochs=2)[0].mask.sum()
      for epoch in range(4)
    ]
    self.assertEqual(counts, [10, 10, 0, 0])


if __name__ == '__main__':
  absltest.main()
