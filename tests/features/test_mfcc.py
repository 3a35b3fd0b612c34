"""MFCC against librosa and the defining sum."""

from absl.testing import absltest
from absl.testing import parameterized
import librosa
import numpy as np

from unlearn_jax.features import mfcc


def log_mels(*shape):
  return np.float32(np.random.default_rng(0).normal(-5, 3, shape))


class MfccTest(parameterized.TestCase):
  @parameterized.parameters(1, 13, 40)
  def test_equals_librosa(self, num_coefficients):
    features = log_mels(3, 98, 40)
    got = mfcc.mfcc(features, num_coefficients=num_coefficients)
    want = librosa.feature.mfcc(
      S=features.swapaxes(-1, -2), n_mfcc=num_coefficients, dct_type=2
    )
    np.testing.assert_allclose(got, want.swapaxes(-1, -2), atol=2e-5, rtol=1e-5)

  def test_equals_the_defining_sum(self):
    features = log_mels(5, 7)
    band, coefficient = np.arange(7)[:, None], np.arange(7)
    basis = np.cos(np.pi * coefficient * (band + 0.5) / 7)
    scale = np.where(coefficient == 0, np.sqrt(1 / 7), np.sqrt(2 / 7))
    np.testing.assert_allclose(
      mfcc.mfcc(features), np.float64(features) @ basis * scale, atol=1e-5
    )

  def test_equal_bands_leave_the_first_coefficient(self):
    got = mfcc.mfcc(np.full((1, 16), 2.0, np.float32))
    np.testing.assert_allclose(got, [[8.0] + [0.0] * 15], atol=1e-6)

  @parameterized.parameters(0, 41)
  def test_out_of_bounds(self, num_coefficients):
    with self.assertRaisesRegex(ValueError, r'in \[1, 40\], got'):
      mfcc.mfcc(log_mels(2, 40), num_coefficients=num_coefficients)


if __name__ == '__main__':
  absltest.main()
