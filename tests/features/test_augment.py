"""Augmentation: identities, bounds, NumPy twins and statistics."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import scipy.stats

from unlearn_jax.features import augment

KEY = jax.random.key(0)


def run(fun, *args, **kwargs):
  return jax.jit(functools.partial(fun, **kwargs))(KEY, *args)


def normal(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def shifts_of(x, shifted):
  """Returns each example's shift, by trying all of them on NumPy rolls."""
  length = x.shape[1]
  shifts = []
  for before, after in zip(x, np.asarray(shifted), strict=True):
    fits = []
    for shift in range(-length, length + 1):
      want = np.zeros_like(before)
      if shift >= 0:
        want[shift:] = before[: length - shift]
      else:
        want[:shift] = before[-shift:]
      if np.array_equal(want, after):
        fits.append(shift)
    shifts.append(fits)
  return shifts


class TimeShiftTest(parameterized.TestCase):
  def test_is_a_shift_within_bounds_and_uniform(self):
    x = normal(500, 20)
    shifts = shifts_of(x, run(augment.time_shift, x, max_shift=3))
    self.assertTrue(all(len(fits) == 1 for fits in shifts))
    shifts, counts = np.unique(np.ravel(shifts), return_counts=True)
    np.testing.assert_array_equal(shifts, np.arange(-3, 4))
    self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-3)

  @parameterized.parameters(1, 2)
  def test_axis_of_features(self, axis):
    x = normal(6, 9, 8)
    moved = np.moveaxis(x, axis, 1)
    got = run(augment.time_shift, x, max_shift=2, axis=axis)
    want = run(augment.time_shift, moved, max_shift=2)
    np.testing.assert_array_equal(np.moveaxis(got, axis, 1), want)
    for fits in shifts_of(moved, want):
      self.assertLen(fits, 1)

  def test_fill_and_type(self):
    x = np.full((200, 10), 5, np.int16)
    got = run(augment.time_shift, x, max_shift=10, fill=-7)
    self.assertEqual(got.dtype, np.int16)
    self.assertEqual(set(np.unique(got)), {-7, 5})

  def test_zero_is_the_identity_bit_for_bit(self):
    x = normal(4, 30)
    got = run(augment.time_shift, x, max_shift=0)
    np.testing.assert_array_equal(got, x)

  def test_out_of_bounds(self):
    for max_shift in (-1, 31):
      with self.assertRaisesRegex(ValueError, r'max_shift must be in \[0, 30'):
        run(augment.time_shift, normal(4, 30), max_shift=max_shift)
    for axis in (0, 2):
      with self.assertRaisesRegex(ValueError, r'axis must be in \[1, 1\]'):
        run(augment.time_shift, normal(4, 30), max_shift=1, axis=axis)


class BackgroundNoiseTest(parameterized.TestCase):
  @parameterized.parameters(-5.0, 0.0, 20.0)
  def test_measured_ratio_is_the_one_asked_for(self, snr_db):
    x = normal(8, 1_000) * np.float32(np.logspace(-3, 0, 8))[:, None]
    noise = 30 * normal(3, 1_500, seed=1)
    got = run(augment.background_noise, x, noise, snr_db_range=(snr_db, snr_db))
    added = np.float64(got) - x
    ratio = (np.float64(x) ** 2).mean(1) / (added**2).mean(1)
    np.testing.assert_allclose(10 * np.log10(ratio), snr_db, atol=1e-3)

  def test_ratios_fill_the_range(self):
    x = normal(1_000, 50)
    got = run(
      augment.background_noise,
      x,
      normal(5, 80, seed=1),
      snr_db_range=(-10.0, 10.0),
    )
    added = np.float64(got) - x
    ratio = (np.float64(x) ** 2).mean(1) / (added**2).mean(1)
    uniform = scipy.stats.uniform(-10.0, 20.0)
    p = scipy.stats.kstest(10 * np.log10(ratio), uniform.cdf).pvalue
    self.assertGreater(p, 1e-3)

  def test_adds_crops_of_every_recording(self):
    ramp = np.arange(1, 13, dtype=np.float32)
    noise = np.stack([ramp, -ramp])
    x = np.ones((300, 10), np.float32)
    got = run(augment.background_noise, x, noise, snr_db_range=(0.0, 0.0))
    crops = np.stack([row[i : i + 10] for row in noise for i in range(3)])
    crops /= np.sqrt((crops**2).mean(1, keepdims=True))
    distance = np.abs((np.asarray(got) - x)[:, None] - crops).max(-1)
    self.assertLess(distance.min(1).max(), 1e-5)
    self.assertEqual(set(distance.argmin(1)), set(range(6)))

  def test_silence_stays_silent_and_silent_noise_adds_nothing(self):
    x, noise = normal(2, 40), normal(3, 40, seed=1)
    for clip, other in ((0 * x, noise), (x, 0 * noise)):
      got = run(augment.background_noise, clip, other)
      np.testing.assert_array_equal(got, clip)

  def test_bad_arguments(self):
    x = normal(2, 40)
    for waveform, noise, message in (
      (x[0], x, 'must be'),
      (np.int16(x), x, 'must be floating'),
      (x, x[:, :39], 'at least 40 samples'),
      (x, x[:0], 'at least 40 samples'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        run(augment.background_noise, waveform, noise)
    for limits in ((1.0, 0.0), (0.0, float('inf')), (float('nan'), 0.0)):
      with self.assertRaisesRegex(ValueError, 'snr_db_range'):
        run(augment.background_noise, x, x, snr_db_range=limits)


class SpecAugmentTest(parameterized.TestCase):
  def masks(self, batch, frames, bins, **kwargs):
    """Returns which frames and bins are masked, [batch, frames or bins]."""
    x = np.ones((batch, frames, bins), np.float32)
    is_masked = (
      np.asarray(run(augment.spec_augment, x, fill=0.0, **kwargs)) == 0
    )
    in_time, in_frequency = is_masked.all(2), is_masked.all(1)
    stripes = in_time[:, :, None] | in_frequency[:, None]
    np.testing.assert_array_equal(is_masked, stripes)
    return in_time, in_frequency

  def test_one_stripe_is_whole_and_its_width_uniform(self):
    for name, axis in (('time', 0), ('frequency', 1)):
      other = 'frequency' if name == 'time' else 'time'
      mask = self.masks(
        2_000,
        12,
        11,
        **{
          f'num_{name}_masks': 1,
          f'max_{name}_width': 5,
          f'num_{other}_masks': 0,
          f'max_{other}_width': 0,
        },
      )[axis]
      edges = np.abs(np.diff(np.pad(np.int8(mask), [(0, 0), (1, 1)]))).sum(1)
      self.assertLessEqual(edges.max(), 2)
      width, counts = np.unique(mask.sum(1), return_counts=True)
      np.testing.assert_array_equal(width, np.arange(6))
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-3)
      # A stripe of full width starts anywhere it fits.
      starts = mask[mask.sum(1) == 5].argmax(1)
      starts, counts = np.unique(starts, return_counts=True)
      np.testing.assert_array_equal(starts, np.arange(mask.shape[1] - 4))
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-3)

  def test_many_stripes_stay_within_their_number_and_width(self):
    in_time, in_frequency = self.masks(
      300, 60, 50, num_time_masks=3, max_time_width=4, max_frequency_width=2
    )
    self.assertEqual(in_time.sum(1).max(), 12)
    self.assertEqual(in_frequency.sum(1).max(), 4)

  def test_fills_with_the_mean_of_the_example(self):
    x = normal(20, 30, 10)
    got = np.asarray(run(augment.spec_augment, x))
    changed = got != x
    self.assertTrue(changed.any())
    mean = np.broadcast_to(np.float64(x).mean((1, 2), keepdims=True), x.shape)
    np.testing.assert_allclose(got[changed], mean[changed], atol=1e-6)

  @parameterized.parameters(
    dict(max_time_width=0, max_frequency_width=0),
    dict(num_time_masks=0, num_frequency_masks=0),
  )
  def test_no_mask_is_the_identity_bit_for_bit(self, **kwargs):
    x = normal(5, 30, 10)
    got = run(augment.spec_augment, x, **kwargs)
    np.testing.assert_array_equal(got, x)

  @parameterized.parameters(
    dict(num_time_masks=-1),
    dict(num_frequency_masks=-1),
    dict(max_time_width=31),
    dict(max_frequency_width=-1),
  )
  def test_out_of_bounds(self, **kwargs):
    (name,) = kwargs
    with self.assertRaisesRegex(ValueError, name):
      run(augment.spec_augment, normal(5, 30, 10), **kwargs)

  def test_bad_features(self):
    with self.assertRaisesRegex(ValueError, 'frames, bins'):
      run(augment.spec_augment, normal(30, 10))


class KeyTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('time_shift', lambda k, x: augment.time_shift(k, x, max_shift=9)),
    ('noise', lambda k, x: augment.background_noise(k, x[..., 0], x[..., 1])),
    (
      'spec_augment',
      lambda k, x: augment.spec_augment(k, x, max_frequency_width=2),
    ),
  )
  def test_function_of_the_key_under_jit_scan_and_rank_checks(self, fun):
    x = normal(6, 40, 2)
    keys = jax.random.split(KEY, 3)
    once = jax.jit(fun)
    want = np.stack([once(k, x) for k in keys])
    with jax.numpy_rank_promotion('raise'):
      _, got = jax.lax.scan(lambda c, k: (c, fun(k, x)), 0, keys)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    self.assertFalse(np.array_equal(want[0], want[1]))

  def test_examples_draw_independently(self):
    x = np.broadcast_to(normal(40), (64, 40))
    shifted = run(augment.time_shift, x, max_shift=5)
    self.assertGreater(len(np.unique(shifted, axis=0)), 5)


if __name__ == '__main__':
  absltest.main()
