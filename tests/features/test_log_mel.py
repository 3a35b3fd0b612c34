"""Log-mels against librosa, on real and on synthetic clips."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from unlearn_jax.features import log_mel

CONFIG = log_mel.LogMelConfig()
# Bound on two errors of every element: |a - b| / b of energies, floored alike,
# and |a - b| / max(1, |b|) of log-mels. librosa computes in float64; float32
# cannot meet the first bound in the bands of a clean tone more than 80 dB below
# the loudest of their frame. Recordings are held to it in all bands.
TOLERANCE = 1e-3


def librosa_energy(waveform, config):
  """Returns floored energies, [..., frames, bins]; librosa centres a window
  in its FFT, so clips are padded to begin with the same frame."""
  fft_length = config.fft_length or config.window_samples
  missing = fft_length - config.window_samples
  padding = [(0, 0)] * (waveform.ndim - 1)
  padding.append((missing // 2, missing - missing // 2))
  energy = librosa.feature.melspectrogram(
    y=np.pad(waveform, padding),
    sr=config.sample_rate_hz,
    n_fft=fft_length,
    win_length=config.window_samples,
    hop_length=config.hop_samples,
    center=False,
    n_mels=config.num_mels,
    fmin=config.lower_edge_hz,
    fmax=config.upper_edge_hz,
  )
  return np.maximum(energy.swapaxes(-1, -2), config.log_floor)


def assert_like_librosa(waveform, config, range_db=np.inf):
  got = np.float64(log_mel.log_mel(waveform, config))
  want = np.float64(librosa_energy(waveform, config))
  assert got.shape == want.shape
  is_loud = want > want.max(-1, keepdims=True) * 10 ** (-range_db / 10)
  assert (np.abs(np.exp(got) - want) / want)[is_loud].max() < TOLERANCE
  log_want = np.log(want)
  error = np.abs(got - log_want) / np.maximum(1.0, np.abs(log_want))
  assert error.max() < TOLERANCE


def noise(*shape):
  """White noise, float32 in [-1, 1]."""
  rng = np.random.default_rng(0)
  return np.float32(np.clip(0.2 * rng.normal(size=shape), -1, 1))


@pytest.fixture(scope='module')
def real_clips(shared_data):
  files = sorted(shared_data.glob('arabic_speech_commands/dataset/*/*.flac'))
  if not files:
    pytest.skip(f'no recordings in {shared_data}')
  clips = [soundfile.read(f, dtype='int16')[0] for f in files[::150]]
  return np.stack(clips)


def test_real_clips_like_librosa(real_clips):
  assert_like_librosa(np.float32(real_clips) / 2**15, CONFIG)


def test_real_int16_equals_float(real_clips):
  got = log_mel.log_mel(real_clips, CONFIG)
  want = log_mel.log_mel(np.float32(real_clips) / 2**15, CONFIG)
  np.testing.assert_allclose(got, want, atol=1e-3)


class LogMelTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('default', CONFIG),
    ('padded_fft', log_mel.LogMelConfig(fft_length=512)),
    ('long_window', log_mel.LogMelConfig(window_ms=30.0, hop_ms=20.0)),
    ('narrow', log_mel.LogMelConfig(num_mels=20, upper_edge_hz=4_000.0)),
    ('8_kHz', log_mel.LogMelConfig(8_000, num_mels=20, upper_edge_hz=4_000.0)),
  )
  def test_synthetic_clips_like_librosa(self, config):
    second = config.sample_rate_hz
    time = np.arange(second) / second
    sweep = 0.5 * np.sin(2 * np.pi * 0.2 * second * time**2)
    clips = np.stack([noise(second), sweep, np.zeros(second)])
    assert_like_librosa(np.float32(clips), config, range_db=80.0)

  def test_one_second_gives_98_frames_of_40_bins(self):
    self.assertEqual(CONFIG.num_frames(16_000), 98)
    features = log_mel.log_mel(noise(16_000), CONFIG)
    self.assertEqual(features.shape, (98, 40))
    self.assertEqual(features.dtype, jnp.float32)

  @parameterized.parameters((400, 1), (559, 1), (560, 2), (16_000, 98))
  def test_num_frames(self, samples, frames):
    self.assertEqual(CONFIG.num_frames(samples), frames)
    features = log_mel.log_mel(noise(samples), CONFIG)
    self.assertLen(features, frames)

  def test_leading_axes_and_blocks_change_nothing(self):
    clips = noise(102, 1_600)  # Two blocks and a rest.
    with jax.numpy_rank_promotion('raise'):
      got = log_mel.log_mel(clips.reshape(3, 34, 1_600), CONFIG)
    one = jax.jit(lambda clip: log_mel.log_mel(clip, CONFIG))
    want = np.stack([one(clip) for clip in clips])
    np.testing.assert_allclose(
      got.reshape(102, 8, 40), want, rtol=1e-5, atol=1e-5
    )

  def test_empty_batch(self):
    features = log_mel.log_mel(np.zeros((0, 800), np.float32), CONFIG)
    self.assertEqual(features.shape, (0, 3, 40))

  def test_silence_is_the_floor(self):
    features = log_mel.log_mel(np.zeros(800, np.int16), CONFIG)
    np.testing.assert_allclose(features, np.log(CONFIG.log_floor), rtol=1e-6)

  def test_traces_once_and_has_a_gradient(self):
    # A function of its own: jit counts the traces of a function, not of a jit.
    compiled = jax.jit(
      lambda x, config: log_mel.log_mel(x, config), static_argnames='config'
    )
    for _ in range(2):
      compiled(noise(2, 800), config=log_mel.LogMelConfig())
    self.assertEqual(compiled._cache_size(), 1)
    gradient = jax.grad(lambda x: compiled(x, config=CONFIG).sum())(noise(800))
    self.assertTrue(np.isfinite(gradient).all())
    self.assertGreater(np.abs(gradient).max(), 0)

  @parameterized.parameters(
    dict(sample_rate_hz=0),
    dict(window_ms=0.0),
    dict(hop_ms=0.01),
    dict(fft_length=399),
    dict(num_mels=0),
    dict(lower_edge_hz=-1.0),
    dict(lower_edge_hz=8_000.0),
    dict(upper_edge_hz=8_001.0),
    dict(log_floor=0.0),
    dict(num_mels=256),
  )
  def test_bad_config(self, **kwargs):
    (name,) = kwargs
    with self.assertRaisesRegex(ValueError, name):
      log_mel.LogMelConfig(**kwargs)

  def test_bad_waveform(self):
    with self.assertRaisesRegex(ValueError, 'at least one window, 400'):
      log_mel.log_mel(noise(399), CONFIG)
    with self.assertRaisesRegex(ValueError, 'int16, got int32'):
      log_mel.log_mel(np.zeros(400, np.int32), CONFIG)


@pytest.mark.parametrize(
  'config',
  [CONFIG, log_mel.LogMelConfig(num_mels=64, lower_edge_hz=0, fft_length=1024)],
)
def test_mel_matrix_equals_librosa(config):
  want = librosa.filters.mel(
    sr=config.sample_rate_hz,
    n_fft=config.fft_length or config.window_samples,
    n_mels=config.num_mels,
    fmin=config.lower_edge_hz,
    fmax=config.upper_edge_hz,
  )
  np.testing.assert_allclose(
    log_mel.mel_matrix(config), want.T, rtol=1e-5, atol=1e-9
  )


if __name__ == '__main__':
  absltest.main()
