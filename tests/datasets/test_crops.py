"""Crops: what they gather, and where they begin."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets import crops as crops_lib
from unlearn_jax.datasets.crops import Crops
from unlearn_jax.datasets.crops import Examples
from unlearn_jax.datasets.lengths import length_buckets

CROP = 6
# Shorter than a crop, as long, longer; 13 = 2 x 6 + 1.
LENGTHS = np.array([1, 4, 6, 7, 13, 20])


def make_utterances(lengths=LENGTHS, bins=3):
  rng = np.random.default_rng(0)
  return [rng.normal(size=(n, bins)).astype(np.float16) for n in lengths]


UTTERANCES = make_utterances()


def make_crops(start=None, utterances=UTTERANCES):
  lengths = np.array([len(u) for u in utterances])
  start = np.zeros(len(lengths), int) if start is None else start
  return Crops(
    frames=jnp.asarray(np.concatenate(utterances)),
    offset=jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32),
    length=jnp.asarray(lengths, jnp.int32),
    start=jnp.asarray(start, jnp.int32),
    crop_frames=CROP,
  )


def twin(row, start, crop_frames=CROP):
  """Frame by frame: an utterance that ends begins anew."""
  utterance = UTTERANCES[row]
  return [utterance[(start + t) % len(utterance)] for t in range(crop_frames)]


START = np.array([0, 0, 0, 1, 5, 14])


class CropsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([3],), ([0, 1, 2, 3, 4, 5],), ([5, 5, 0],), ([[4, 1], [0, 5], [2, 3]],)
  )
  def test_gathers_frame_by_frame(self, rows):
    rows = np.array(rows)
    crops = make_crops(START)
    want = np.array([twin(i, START[i]) for i in rows.ravel()])
    want = want.reshape(*rows.shape, CROP, 3)
    for get in (lambda c, r: c[r], jax.jit(lambda c, r: c[r])):
      got = get(crops, rows)
      self.assertEqual(got.dtype, jnp.float16)
      np.testing.assert_array_equal(got, want)

  def test_one_row(self):
    np.testing.assert_array_equal(make_crops(START)[4], twin(4, 5))

  def test_cut_is_the_same_for_one_utterance(self):
    for row, start in enumerate(START):
      got = crops_lib.cut(UTTERANCES[row], int(start), CROP)
      np.testing.assert_array_equal(got, twin(row, start))

  def test_stands_in_for_an_array(self):
    crops = make_crops(START)
    array = crops[np.arange(6)]
    self.assertEqual(crops.shape, array.shape)
    self.assertEqual(crops.dtype, array.dtype)
    label = jnp.arange(6)
    step = batches.IndexBatches(np.array([3, 0]), np.array([1.0, 0.0]))
    got = batches.take({'features': crops, 'label': label}, step)
    want = batches.take({'features': array, 'label': label}, step)
    jax.tree.map(np.testing.assert_array_equal, got, want)

  def test_members_of_a_population_share_one_copy(self):
    crops = make_crops(START)
    rows = np.array([[0, 3], [5, 1], [2, 2]])
    got = jax.vmap(lambda c, r: c[r], in_axes=(None, 0))(crops, rows)
    np.testing.assert_array_equal(got, crops[rows])

  def test_other_crops_of_the_same_frames(self):
    crops = make_crops()
    got = crops.cropped(START, 4)
    self.assertIs(got.frames, crops.frames)
    self.assertEqual(got.shape, (6, 4, 3))
    for row, start in enumerate(START):
      np.testing.assert_array_equal(got[row], twin(row, start, 4))


class RandomStartsTest(parameterized.TestCase):
  def draw(self, lengths=LENGTHS, seed=(3, 1), epoch=0):
    return crops_lib.random_starts(lengths, CROP, seed=seed, epoch=epoch)

  def test_lies_in_the_utterance(self):
    starts = np.stack([self.draw(epoch=e) for e in range(300)])
    self.assertEqual(starts.dtype, np.int32)
    self.assertTrue((starts >= 0).all())
    np.testing.assert_array_equal(
      starts.max(0),
      np.maximum(0, LENGTHS - CROP),
      err_msg='and reaches the end',
    )

  def test_is_uniform(self):
    # 8 starts: each has 1/8 of the draws, within five standard deviations.
    starts = self.draw(np.full(80_000, CROP + 7))
    counts = np.bincount(starts, minlength=8)
    self.assertLen(counts, 8)
    bound = 5 * np.sqrt(80_000 * 1 / 8 * 7 / 8)
    np.testing.assert_allclose(counts, 10_000, atol=bound)

  def test_depends_on_seed_and_epoch(self):
    lengths = np.full(50, 1_000)
    first = self.draw(lengths)
    np.testing.assert_array_equal(self.draw(lengths), first)
    for other in ({'epoch': 1}, {'seed': (3, 2)}, {'seed': (4, 1)}):
      self.assertGreater((self.draw(lengths, **other) != first).mean(), 0.9)

  def test_does_not_depend_on_other_utterances(self):
    lengths = np.random.default_rng(0).integers(1, 999, 200)
    want = self.draw(lengths)
    others = np.where(np.arange(200) == 120, lengths, 7)
    self.assertEqual(self.draw(others)[120], want[120])
    np.testing.assert_array_equal(self.draw(lengths[:121]), want[:121])

  @parameterized.parameters((0, [5]), (4, [3, 0]))
  def test_bad_lengths(self, crop_frames, lengths):
    with self.assertRaisesRegex(ValueError, 'must be at least 1'):
      crops_lib.random_starts(lengths, crop_frames, seed=(0,), epoch=0)


class ScoringTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, [[0, 0, 0, 0, 3, 7]]),
    (2, [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 7, 14]]),
    (3, [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 7], [0, 0, 0, 1, 7, 14]]),
  )
  def test_even_starts_touch_both_ends(self, k, want):
    got = crops_lib.even_starts(LENGTHS, CROP, k)
    self.assertEqual(got.dtype, np.int32)
    np.testing.assert_array_equal(got, want)

  def test_no_crops(self):
    with self.assertRaisesRegex(ValueError, 'k must be at least 1, got 0'):
      crops_lib.even_starts(LENGTHS, CROP, 0)

  def test_an_utterance_is_scored_whole(self):
    examples = Examples({'features': make_crops(START)})
    for crop_frames, rows in length_buckets(LENGTHS):
      features = examples.cropped(np.zeros(6, int), crop_frames)['features']
      for row in rows:
        np.testing.assert_array_equal(
          features[row][: LENGTHS[row]], UTTERANCES[row]
        )


class ExamplesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    lengths = np.full(20, 90)
    crops = make_crops(utterances=make_utterances(lengths))
    self.arrays = {'features': crops, 'label': jnp.arange(20)}
    self.examples = Examples(self.arrays, (7,))

  def test_each_epoch_has_crops_of_its_own(self):
    for epoch in range(3):
      got = self.examples.at(epoch)
      self.assertIs(got['label'], self.arrays['label'])
      np.testing.assert_array_equal(
        got['features'].start,
        crops_lib.random_starts(np.full(20, 90), CROP, seed=(7,), epoch=epoch),
      )

  def test_calls_carry_the_crops_of_the_epoch(self):
    call = (None, batches.one_pass(np.arange(20), 5))
    got = list(self.examples.calls([call, call], 2))
    self.assertLen(got, 2)
    for forget, retain, examples in got:
      self.assertIsNone(forget)
      self.assertIs(retain, call[1])
      jax.tree.map(np.testing.assert_array_equal, examples, self.examples.at(2))

  def test_arrays_of_fixed_length_stay_as_they_are(self):
    arrays = {'features': jnp.zeros((4, 3, 2)), 'label': jnp.arange(4)}
    got = Examples(arrays).at(3)
    self.assertEqual(set(got), set(arrays))
    for name, x in arrays.items():
      self.assertIs(got[name], x)


class BucketsTest(parameterized.TestCase):
  def test_crops_end_with_the_longest_of_a_call(self):
    utterances = make_utterances(np.array([1, 3, 6, 7, 13, 20]))
    crops = make_crops(utterances=utterances)
    examples = Examples({'x': crops}, seed=(1,), in_buckets=True)
    calls = [
      (None, batches.one_pass(np.array(rows), 2))
      for rows in ([0], [1, 0], [1, 2], [5, 0])
    ]
    calls.append((batches.one_pass(np.array([2]), 1), calls[0][1]))
    got = [x['x'].crop_frames for _, _, x in examples.calls(calls, 0)]
    # Of at most 6 frames, the buckets end at 1, 3 and 6.
    self.assertEqual(got, [1, 3, 6, 6, 6])
    whole = Examples({'x': crops}, seed=(1,))
    for (_, side, x), (_, _, y) in zip(
      examples.calls(calls[:4], 3), whole.calls(calls[:4], 3), strict=True
    ):
      a, b = x['x'][side.rows], y['x'][side.rows]
      np.testing.assert_array_equal(a, b[..., : a.shape[-2], :])


if __name__ == '__main__':
  absltest.main()
