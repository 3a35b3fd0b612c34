"""Integer audio against closed forms, and its tables against rounding."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.signal

from unlearn_jax.datasets import integer_audio


class IntegerAudioTest(parameterized.TestCase):
  def test_tables_are_far_from_halves(self):
    """So no error of sin, cos or pow near the last bit can change them."""
    taps = scipy.signal.firwin(64 * 320 + 1, 7_400, fs=320 * 22_050)
    for exact, rounded in (
      (taps * 320 * 2**15, integer_audio.resampling_taps()),
      *(
        (32_768 * 10 ** (-d / 20), integer_audio.amplitude(d))
        for d in range(91)
      ),
      *(
        (4_096 * 10 ** (d / 10), integer_audio.power(d)) for d in range(-20, 61)
      ),
    ):
      np.testing.assert_array_less(np.abs(exact - rounded), 0.5 - 1e-6)

  @parameterized.parameters(200, 1_000, 3_000, 6_500)
  def test_resampled_tone_is_the_tone(self, frequency_hz):
    t = np.arange(8_000) / 22_050
    tone = 20_000 * np.sin(2 * np.pi * frequency_hz * t)
    resampled = integer_audio.resample(np.round(tone).astype(np.int16))
    # The filter of 64 * 320 + 1 taps delays by half its length.
    t = np.arange(len(resampled)) / 16_000 - 32 / 22_050
    expected = 20_000 * np.sin(2 * np.pi * frequency_hz * t)
    inner = slice(100, -100)
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=60)

  def test_resampling_does_not_alias(self):
    t = np.arange(8_000) / 22_050
    tone = np.round(20_000 * np.sin(2 * np.pi * 9_000 * t)).astype(np.int16)
    resampled = integer_audio.resample(tone)[100:-100]
    self.assertLess(np.abs(resampled).max(), 20_000 * 10 ** (-50 / 20))

  def test_white_noise_is_the_bits_of_the_generator(self):
    raw = np.random.PCG64(np.random.SeedSequence((5, 6))).random_raw(2)
    expected = [
      int.from_bytes(
        int(word).to_bytes(8, 'little')[i : i + 2], 'little', signed=True
      )
      for word in raw
      for i in (0, 2, 4, 6)
    ]
    noise = integer_audio.Draws(5, 6).white_noise(7)
    self.assertEqual(noise.tolist(), expected[:7])

  @parameterized.parameters(('white_noise', 0.0), ('pink_noise', -1.0))
  def test_spectrum_of_noise(self, name, exponent):
    noise = getattr(integer_audio.Draws(1), name)(400_000)
    hz, psd = scipy.signal.welch(noise.astype(float), 16_000, nperseg=4_096)
    band = (hz > 50) & (hz < 4_000)
    slope = np.polyfit(np.log(hz[band]), np.log(psd[band]), 1)[0]
    self.assertAlmostEqual(slope, exponent, delta=0.15)

  def test_hum_is_periodic_and_low(self):
    for seed in range(5):
      hum = integer_audio.Draws(seed).hum(16_000)
      hz = np.argmax(np.abs(np.fft.rfft(hum - hum.mean())))  # 1 Hz a bin.
      self.assertBetween(hz, 44, 240)

  def test_draws_are_uniform_over_the_closed_range(self):
    draws = integer_audio.Draws(9)
    counts = np.bincount([draws.integer(2, 5) for _ in range(4_000)])
    self.assertEqual(counts[:2].sum(), 0)
    self.assertLen(counts, 6)
    np.testing.assert_allclose(counts[2:], 1_000, atol=150)
    self.assertEqual(sorted(draws.permutation(50)), list(range(50)))

  def test_scale_to_gives_the_level(self):
    noise = integer_audio.Draws(2).pink_noise(16_000)
    scaled = integer_audio.scale_to(noise, 777)
    self.assertAlmostEqual(np.sqrt(np.mean(scaled**2.0)), 777, delta=1)
    self.assertEqual(integer_audio.scale_to(np.zeros(9, int), 777).max(), 0)


if __name__ == '__main__':
  absltest.main()
