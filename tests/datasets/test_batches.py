"""Index batches: which rows stand where, and what they gather."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches

ROWS = np.arange(10, 20)


def rng(seed=0):
  return np.random.default_rng(seed)


def check(got, rows, mask):
  """Asserts contents, types and shapes."""
  np.testing.assert_array_equal(got.rows, rows)
  np.testing.assert_array_equal(got.mask, mask)
  assert got.rows.dtype == np.int32 and got.mask.dtype == np.float32
  assert got.rows.shape == got.mask.shape == np.shape(rows)


class OnePassTest(parameterized.TestCase):
  def test_keeps_the_order_and_pads_the_last_batch(self):
    check(
      batches.one_pass(ROWS[:5], 2),
      [[10, 11], [12, 13], [14, 0]],
      [[1, 1], [1, 1], [1, 0]],
    )

  def test_full_batches_have_no_padding(self):
    check(batches.one_pass(ROWS[:4], 2), [[10, 11], [12, 13]], np.ones((2, 2)))

  def test_fewer_rows_than_a_batch(self):
    check(batches.one_pass([7], 3), [[7, 0, 0]], [[1, 0, 0]])

  def test_no_rows_give_no_steps(self):
    check(
      batches.one_pass(ROWS[:0], 3, rng()), np.zeros((0, 3)), np.zeros((0, 3))
    )

  def test_generator_shuffles_and_every_row_comes_once(self):
    got, again, other = (
      batches.one_pass(ROWS, 4, rng(seed)) for seed in (0, 0, 1)
    )
    seen = got.rows[got.mask == 1]
    np.testing.assert_array_equal(np.sort(seen), ROWS)
    self.assertTrue((seen != ROWS).any())
    check(again, got.rows, got.mask)
    self.assertTrue((other.rows != got.rows).any())

  def test_given_rows_are_not_shuffled_in_place(self):
    rows = ROWS.astype(np.int32)
    batches.one_pass(rows, 4, rng())
    np.testing.assert_array_equal(rows, ROWS)


class RepeatTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 7)
  def test_full_batches_of_pass_after_pass(self, steps):
    got = batches.repeat(ROWS, 4, steps, rng())
    self.assertEqual(got.rows.shape, (steps, 4))
    np.testing.assert_array_equal(got.mask, np.ones((steps, 4)))
    seen = got.rows.ravel()
    for first in range(0, len(seen), len(ROWS)):
      part = seen[first : first + len(ROWS)]
      self.assertLen(np.unique(part), len(part))
      self.assertTrue(np.isin(part, ROWS).all())

  def test_each_pass_has_an_order_of_its_own(self):
    seen = batches.repeat(ROWS, 5, 4, rng()).rows.reshape(2, 10)
    self.assertTrue((seen[0] != seen[1]).any())

  def test_fewer_rows_than_a_batch_are_one_padded_pass_each(self):
    got = batches.repeat(ROWS[:3], 5, 4, rng())
    np.testing.assert_array_equal(got.mask, [[1, 1, 1, 0, 0]] * 4)
    np.testing.assert_array_equal(np.sort(got.rows[:, :3]), [[10, 11, 12]] * 4)
    np.testing.assert_array_equal(got.rows[:, 3:], 0)

  def test_as_many_rows_as_a_batch(self):
    got = batches.repeat(ROWS, 10, 3, rng())
    np.testing.assert_array_equal(np.sort(got.rows), [ROWS] * 3)
    np.testing.assert_array_equal(got.mask, np.ones((3, 10)))

  @parameterized.parameters(2, 30)
  def test_zero_steps(self, batch_size):
    zeros = np.zeros((0, batch_size))
    check(batches.repeat(ROWS, batch_size, 0, rng()), zeros, zeros)

  def test_no_rows_are_padding_alone(self):
    got = batches.repeat(np.array([], int), 4, 3, np.random.default_rng(0))
    self.assertEqual(got.rows.shape, (3, 4))
    self.assertEqual(got.mask.sum(), 0)


class JoinTest(parameterized.TestCase):
  def test_empty_is_padding_alone(self):
    check(batches.empty(2, 3), np.zeros((2, 3)), np.zeros((2, 3)))

  def test_concatenate_puts_one_after_another(self):
    parts = [batches.one_pass(ROWS[:3], 2), batches.empty(1, 2)]
    parts.append(batches.one_pass(ROWS[5:6], 2))
    check(
      batches.concatenate(parts, 2),
      [[10, 11], [12, 0], [0, 0], [15, 0]],
      [[1, 1], [1, 0], [0, 0], [1, 0]],
    )

  def test_concatenate_nothing(self):
    check(batches.concatenate([], 3), np.zeros((0, 3)), np.zeros((0, 3)))

  @parameterized.parameters(2, 3, 5)
  def test_pad_steps_appends_padding(self, steps):
    got = batches.pad_steps(batches.one_pass(ROWS[:3], 2), steps)
    more = steps - 2
    check(
      got,
      [[10, 11], [12, 0]] + [[0, 0]] * more,
      [[1, 1], [1, 0]] + [[0, 0]] * more,
    )

  def test_pad_steps_to_fewer_raises(self):
    with self.assertRaisesRegex(ValueError, 'steps must be at least 2, got 1'):
      batches.pad_steps(batches.one_pass(ROWS[:3], 2), 1)


class TakeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    values = rng().normal(size=(6, 2, 3)).astype(np.float32)
    self.examples = {'features': values, 'label': np.arange(6) * 10}
    self.batch = IndexBatches(
      np.asarray([4, 1, 0], np.int32), np.asarray([1, 1, 0], np.float32)
    )

  def check(self, got):
    self.assertEqual(set(got), {'features', 'label', 'id', 'mask'})
    np.testing.assert_array_equal(
      got['features'], self.examples['features'][[4, 1, 0]]
    )
    np.testing.assert_array_equal(got['label'], [40, 10, 0])
    np.testing.assert_array_equal(got['id'], [4, 1, 0])
    np.testing.assert_array_equal(got['mask'], [1, 1, 0])
    self.assertEqual(got['mask'].dtype, jnp.float32)

  def test_gathers_rows_with_mask_and_id(self):
    self.check(batches.take(self.examples, self.batch))

  def test_gathers_inside_a_compiled_function(self):
    self.check(jax.jit(batches.take)(self.examples, self.batch))

  def test_examples_are_left_alone(self):
    batches.take(self.examples, self.batch)
    self.assertEqual(set(self.examples), {'features', 'label'})


if __name__ == '__main__':
  absltest.main()
