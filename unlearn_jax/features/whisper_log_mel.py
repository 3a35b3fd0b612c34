r"""What Whisper hears: log-mels of thirty seconds, silence behind the sound.

.. math::
  y = \tfrac14 (\max(z, \max_{t,b} z - 8) + 4), \quad
  z = \log_{10} \max(10^{-10}, M |STFT(x)|^2)

with frames around every 160th sample, the waveform mirrored at its beginning.

Source: Radford et al., 2022, https://arxiv.org/abs/2212.04356, section 2.2;
numbers as `transformers.WhisperFeatureExtractor` has them.
"""

import jax
import jax.numpy as jnp

from unlearn_jax.features.log_mel import log_mel
from unlearn_jax.features.log_mel import LogMelConfig

_FLOOR = 1e-10
_SILENCE = -10.0  # log10 of the floor.


def whisper_log_mel(
  waveform: jax.Array, *, frames: int = 3_000, num_mels: int = 80
) -> jax.Array:
  """Computes the log-mels of a batch.

  Args:
    waveform: [batch, samples] float32 in [-1, 1] at 16 kHz; more than 200
      samples, and at most as many as the frames stand for, 160 each.
    frames: of the result.
    num_mels: bins, 80 in most models.

  Returns:
    [batch, frames, num_mels] float32.

  Raises:
    ValueError: if the waveform is too short or too long.
  """
  config = LogMelConfig(num_mels=num_mels, lower_edge_hz=0.0, log_floor=_FLOOR)
  hop, half = config.hop_samples, config.window_samples // 2
  samples = waveform.shape[1]
  if not half < samples <= frames * hop:
    raise ValueError(
      f'a waveform must have from {half + 1} to {frames * hop} samples, got '
      f'{samples}.'
    )
  whole = samples == frames * hop
  before = jnp.pad(waveform, ((0, 0), (half, 0)), mode='reflect')
  if whole:  # Else silence lies there, which a mirror leaves as it is.
    padded = jnp.pad(before, ((0, 0), (0, half)), mode='reflect')
  else:
    padded = jnp.pad(before, ((0, 0), (0, 2 * half)))
  z = log_mel(padded, config)[:, :frames] / jnp.log(10.0)
  missing = frames - z.shape[1]
  z = jnp.pad(z, ((0, 0), (0, missing), (0, 0)), constant_values=_SILENCE)
  return (jnp.maximum(z, z.max((1, 2), keepdims=True) - 8.0) + 4.0) / 4.0
