r"""Log-mel features: the logarithm of short-time power in mel bands.

.. math::
  y_{t,b} = \log \max(\epsilon,
    \sum_k M_{k,b} |\sum_n w_n x_{t h + n} e^{-2 \pi i k n / N}|^2)

with a periodic Hann window w, hop h, FFT length N and triangular bands M of
equal area on Slaney's mel scale (linear below 1 kHz, logarithmic above). These
are the numbers of `librosa.feature.melspectrogram(center=False)`, in float32:
an energy 90 dB below the loudest of its frame is right to about one in 1,000.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Clips in flight at once: their frames stay in the processor's cache.
_BLOCK = 50


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
  """What `log_mel` computes; hashable, so it can be a static argument.

  Attributes:
    sample_rate_hz: of the waveform.
    window_ms: length of the Hann window.
    hop_ms: from one frame to the next.
    num_mels: bands.
    lower_edge_hz: where the lowest band begins.
    upper_edge_hz: where the highest band ends.
    fft_length: in samples, zero-padded from the window; 0 is the window's own
      length, which at 400 samples is also the fastest.
    log_floor: smaller energies are raised to this one. The default lies 81 dB
      below a tone of amplitude 0.1.
  """

  sample_rate_hz: int = 16_000
  window_ms: float = 25.0
  hop_ms: float = 10.0
  num_mels: int = 40
  lower_edge_hz: float = 20.0
  upper_edge_hz: float = 8_000.0
  fft_length: int = 0
  log_floor: float = 1e-8

  def __post_init__(self):
    """Raises ValueError where a value is out of bounds."""
    if self.sample_rate_hz < 1:
      raise ValueError(
        f'sample_rate_hz must be positive, got {self.sample_rate_hz}.'
      )
    for name in ('window', 'hop'):
      if getattr(self, f'{name}_samples') < 1:
        raise ValueError(
          f'{name}_ms must be at least one sample, got '
          f'{getattr(self, f"{name}_ms")}.'
        )
    if self.fft_length and self.fft_length < self.window_samples:
      raise ValueError(
        f'fft_length must be 0 or at least the window of '
        f'{self.window_samples} samples, got {self.fft_length}.'
      )
    if self.num_mels < 1:
      raise ValueError(f'num_mels must be positive, got {self.num_mels}.')
    if not 0 <= self.lower_edge_hz < self.upper_edge_hz:
      raise ValueError(
        f'lower_edge_hz must be in [0, upper_edge_hz), got '
        f'{self.lower_edge_hz} and {self.upper_edge_hz}.'
      )
    if self.upper_edge_hz > self.sample_rate_hz / 2:
      raise ValueError(
        f'upper_edge_hz must be at most half of sample_rate_hz, '
        f'{self.sample_rate_hz / 2}, got {self.upper_edge_hz}.'
      )
    if not self.log_floor > 0:
      raise ValueError(f'log_floor must be positive, got {self.log_floor}.')
    if not mel_matrix(self).any(axis=0).all():
      raise ValueError(
        f'num_mels={self.num_mels} leaves bands between the frequencies of an '
        f'FFT of {self.num_frequencies * 2 - 2}: raise fft_length.'
      )

  @property
  def window_samples(self) -> int:
    """Length of the window in samples."""
    return round(self.window_ms * self.sample_rate_hz / 1_000)

  @property
  def hop_samples(self) -> int:
    """Samples from one frame to the next."""
    return round(self.hop_ms * self.sample_rate_hz / 1_000)

  @property
  def num_frequencies(self) -> int:
    """Frequencies of the FFT from zero to half the sample rate."""
    return (self.fft_length or self.window_samples) // 2 + 1

  def num_frames(self, num_samples: int) -> int:
    """Frames that fit wholly into `num_samples`; one second gives 98.

    Raises:
      ValueError: if not one frame fits.
    """
    if num_samples < self.window_samples:
      raise ValueError(
        f'a waveform must be at least one window, {self.window_samples} '
        f'samples, got {num_samples}.'
      )
    return 1 + (num_samples - self.window_samples) // self.hop_samples


def _hz_to_mel(hz):
  """Slaney's mel scale: 200/3 Hz a mel to 1 kHz, then 27 mels for 6.4-fold."""
  logarithmic = 15.0 + 27.0 * np.log(np.maximum(hz, 1e3) / 1e3) / np.log(6.4)
  return np.where(np.asarray(hz) < 1e3, np.asarray(hz) * 0.015, logarithmic)


def _mel_to_hz(mel):
  logarithmic = 1e3 * 6.4 ** ((np.maximum(mel, 15.0) - 15.0) / 27.0)
  return np.where(np.asarray(mel) < 15.0, np.asarray(mel) / 0.015, logarithmic)


def mel_matrix(config: LogMelConfig) -> np.ndarray:
  """Returns triangles of unit area in Hz, float64 [frequencies, bins]."""
  first, last = _hz_to_mel([config.lower_edge_hz, config.upper_edge_hz])
  edges = _mel_to_hz(np.linspace(first, last, config.num_mels + 2))
  lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
  fft_length = config.fft_length or config.window_samples
  hz = np.arange(config.num_frequencies) * config.sample_rate_hz / fft_length
  rising = (hz[:, None] - lower) / (centre - lower)
  falling = (upper - hz[:, None]) / (upper - centre)
  height = 2.0 / (upper - lower)
  return height * np.maximum(0.0, np.minimum(rising, falling))


def _log_mel_of_clip(waveform: jax.Array, config: LogMelConfig) -> jax.Array:
  """Maps one clip [samples] to [frames, bins]."""
  length = config.window_samples
  frames = config.num_frames(waveform.shape[0])
  index = np.arange(frames)[:, None] * config.hop_samples + np.arange(length)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
  if waveform.dtype == jnp.int16:
    window /= 2**15
  windowed = waveform[index].astype(jnp.float32) * jnp.float32(window)[None]
  spectrum = jnp.fft.rfft(windowed, n=config.fft_length or length)
  power = spectrum.real**2 + spectrum.imag**2
  energy = jnp.matmul(  # Never in TF32, whose error exceeds the FFT's.
    power, jnp.float32(mel_matrix(config)), precision=lax.Precision.HIGHEST
  )
  return jnp.log(jnp.maximum(energy, config.log_floor))


def log_mel(waveform: jax.typing.ArrayLike, config: LogMelConfig) -> jax.Array:
  """Computes log-mel features; meant to run under `jit`, `config` static.

  A large batch is computed block by block within the one program, which on a
  CPU is faster than all at once.

  >>> log_mel(np.zeros((2, 16_000), np.int16), LogMelConfig()).shape
  (2, 98, 40)

  Args:
    waveform: [..., samples], floating point in [-1, 1], or int16.
    config: the front end.

  Returns:
    [..., frames, bins], float32, natural logarithm.

  Raises:
    ValueError: if the waveform is of another type or shorter than a window.
  """
  waveform = jnp.asarray(waveform)
  is_float = jnp.issubdtype(waveform.dtype, jnp.floating)
  if not is_float and waveform.dtype != jnp.int16:
    raise ValueError(
      f'a waveform must be floating point or int16, got {waveform.dtype}.'
    )
  *leading, samples = waveform.shape
  features = lax.map(
    lambda clip: _log_mel_of_clip(clip, config),
    waveform.reshape(-1, samples),
    batch_size=_BLOCK,
  )
  return features.reshape(*leading, *features.shape[1:])
