"""What a pretrained model wants to hear, as `preprocessor_config.json` says."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.features.whisper_log_mel import whisper_log_mel
from unlearn_jax.models.pretrained import whisper
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.config import Fields
from unlearn_jax.models.pretrained.layers import within
from unlearn_jax.types import Batch

SAMPLE_RATE_HZ = 16_000
_EPSILON = 1e-7  # Added to the variance of a waveform.


@dataclasses.dataclass(frozen=True)
class FrontEnd:
  """From recordings to what the encoder reads.

  Attributes:
    normalise: a waveform gets mean 0 and variance 1.
    masks: the model was trained with masks over padding: what lies behind a
      recording is neither heard nor counted. Without them it is silence, which
      such a model hears, and a recording's numbers depend on how far it was
      padded.
    bins, frames: of the log-mels; 0 for a model that reads the waveform.
  """

  normalise: bool = True
  masks: bool = False
  bins: int = 0
  frames: int = 0

  @classmethod
  def read(
    cls, source: str, network: Network, values: Mapping[str, Any]
  ) -> 'FrontEnd':
    """Reads a `preprocessor_config.json`.

    Args:
      source: the file, for errors.
      network: that hears it.
      values: content; {} is what `transformers` takes where there is no file.

    Raises:
      InputError: if it describes what is not built here.
    """
    fields = Fields(source, values)
    fields.expect('sampling_rate', SAMPLE_RATE_HZ)
    fields.expect('padding_value', 0.0)
    fields.expect('padding_side', 'right')
    encoder = network.encoder
    if not isinstance(encoder, whisper.Config):
      fields.expect('feature_size', 1)
      return cls(
        fields.flag('do_normalize', True),
        fields.flag('return_attention_mask', False),
      )
    fields.expect('feature_size', encoder.bins)
    fields.expect('hop_length', 160)
    fields.expect('n_fft', 400)
    fields.expect('dither', 0.0)
    return cls(False, False, encoder.bins, 2 * encoder.positions)

  @property
  def longest(self) -> int | None:
    """Returns the samples of the longest recording; None for any length."""
    return self.frames * 160 if self.frames else None

  def __call__(self, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
    """Returns what the encoder reads, and how many samples are no padding.

    Args:
      batch: `waveform`, [batch, samples], floating point in [-1, 1] or int16;
        `samples`, [batch] int32, of each recording; where it is absent all are
        as long as the array.
    """
    waveform = batch['waveform']
    if waveform.dtype == jnp.int16:
      waveform = waveform.astype(jnp.float32) / 2**15
    waveform = waveform.astype(jnp.float32)
    samples = batch.get('samples')
    if samples is not None:
      inside = within(samples, waveform.shape[1])
      waveform = jnp.where(inside, waveform, 0.0)
    if self.frames:
      log_mel = whisper_log_mel(
        waveform, frames=self.frames, num_mels=self.bins
      )
      return log_mel, None
    if not self.masks:
      samples = None
    if self.normalise:
      counts = waveform.shape[1] if samples is None else samples[:, None]
      mean = waveform.sum(1, keepdims=True) / counts
      centred = waveform - mean
      if samples is not None:
        centred = jnp.where(inside, centred, 0.0)
      variance = jnp.square(centred).sum(1, keepdims=True) / counts
      waveform = centred * jax.lax.rsqrt(variance + _EPSILON)
    return waveform, samples
