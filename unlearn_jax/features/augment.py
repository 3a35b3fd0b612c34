"""Augmentation: pure functions of a key, one independent draw an example."""

import jax
from jax import lax
import jax.numpy as jnp


def time_shift(
  key: jax.Array,
  x: jax.Array,
  *,
  max_shift: int,
  axis: int = 1,
  fill: float | None = 0,
) -> jax.Array:
  """Shifts each example by a uniform number of steps, either way.

  Args:
    key: PRNG key.
    x: [batch, samples] or [batch, frames, bins], of any type.
    max_shift: shifts are in [-max_shift, max_shift] steps along `axis`;
      positive is later. 0 is the identity.
    axis: what to shift along; not the batch.
    fill: value of the steps left empty; None repeats the outermost step.

  Returns:
    An array like `x`.

  Raises:
    ValueError: if `axis` or `max_shift` is out of bounds.
  """
  if not 1 <= axis < x.ndim:
    raise ValueError(f'axis must be in [1, {x.ndim - 1}], got {axis}.')
  length = x.shape[axis]
  if not 0 <= max_shift <= length:
    raise ValueError(f'max_shift must be in [0, {length}], got {max_shift}.')
  start = jax.random.randint(key, x.shape[:1], 0, 2 * max_shift + 1)
  padding = [(0, 0)] * x.ndim
  padding[axis] = (max_shift, max_shift)
  if fill is None:
    padded = jnp.pad(x, padding, mode='edge')
  else:
    padded = jnp.pad(x, padding, constant_values=fill)

  def crop(example, start):
    return lax.dynamic_slice_in_dim(example, start, length, axis - 1)

  return jax.vmap(crop)(padded, start)


def background_noise(
  key: jax.Array,
  waveform: jax.Array,
  noise: jax.Array,
  *,
  snr_db_range: tuple[float, float] = (0.0, 30.0),
) -> jax.Array:
  r"""Adds a random crop of a random noise at a uniform ratio in dB.

  .. math::
    x + n \sqrt{P_x / (P_n 10^{s / 10})}

  with P the mean square of the clip and of the crop, s the ratio drawn.

  | case | result |
  |---|---|
  | silent clip | the clip: a ratio to silence adds nothing |
  | silent crop | the clip |
  | loud noise | may leave [-1, 1]: nothing is clipped |

  Args:
    key: PRNG key.
    waveform: [batch, samples], floating point.
    noise: [recordings, noise_samples], at least as long as the waveform.
    snr_db_range: lowest and highest signal-to-noise ratio in dB.

  Returns:
    [batch, samples], of the waveform's type.

  Raises:
    ValueError: if shapes, types or the range do not fit.
  """
  if waveform.ndim != 2 or noise.ndim != 2:
    raise ValueError(
      'waveform and noise must be [batch, samples], got '
      f'{waveform.shape} and {noise.shape}.'
    )
  if not jnp.issubdtype(waveform.dtype, jnp.floating):
    raise ValueError(f'waveform must be floating, got {waveform.dtype}.')
  batch, samples = waveform.shape
  recordings, noise_samples = noise.shape
  if recordings < 1 or noise_samples < samples:
    raise ValueError(
      f'noise must hold a recording of at least {samples} samples, got '
      f'{noise.shape}.'
    )
  lowest, highest = snr_db_range
  if not -float('inf') < lowest <= highest < float('inf'):
    raise ValueError(f'snr_db_range must be ordered, got {snr_db_range}.')

  recording_key, start_key, snr_key = jax.random.split(key, 3)
  recording = jax.random.randint(recording_key, (batch,), 0, recordings)
  start = jax.random.randint(
    start_key, (batch,), 0, noise_samples - samples + 1
  )
  snr_db = jax.random.uniform(
    snr_key, (batch,), waveform.dtype, lowest, highest
  )
  crops = jax.vmap(
    lambda row, first: lax.dynamic_slice(noise, (row, first), (1, samples))[0]
  )(recording, start).astype(waveform.dtype)
  noise_power = jnp.square(crops).mean(axis=1)
  target_power = jnp.square(waveform).mean(axis=1) * 10 ** (-snr_db / 10)
  is_silent = noise_power == 0
  gain = jnp.sqrt(target_power / jnp.where(is_silent, 1, noise_power))
  return waveform + jnp.where(is_silent, 0, gain)[:, None] * crops


def spec_augment(
  key: jax.Array,
  features: jax.Array,
  *,
  num_time_masks: int = 2,
  max_time_width: int = 25,
  num_frequency_masks: int = 2,
  max_frequency_width: int = 7,
  fill: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Masks stripes of frames and of bins (SpecAugment without warping).

  The width of a stripe is uniform in [0, max_width], its start uniform among
  the places where it fits; stripes may overlap.

  Args:
    key: PRNG key.
    features: [batch, frames, bins], floating point.
    num_time_masks: stripes of frames an example.
    max_time_width: in frames.
    num_frequency_masks: stripes of bins an example.
    max_frequency_width: in bins.
    fill: value under the masks; None is the mean of each example.

  Returns:
    [batch, frames, bins], of the features' type; the same bit for bit outside
    the masks.

  Raises:
    ValueError: if the shape, the type, a number or a width is out of bounds.

  References:
    Park et al., 2019, https://arxiv.org/abs/1904.08779, section 2.
  """
  if features.ndim != 3 or not jnp.issubdtype(features.dtype, jnp.floating):
    raise ValueError(
      'features must be [batch, frames, bins] and floating, got '
      f'{features.shape} and {features.dtype}.'
    )
  batch, frames, bins = features.shape
  time_key, frequency_key = jax.random.split(key)
  in_time = _stripes(
    time_key, batch, frames, num_time_masks, max_time_width, 'time'
  )
  in_frequency = _stripes(
    frequency_key,
    batch,
    bins,
    num_frequency_masks,
    max_frequency_width,
    'frequency',
  )
  if fill is None:
    fill = features.mean(axis=(1, 2), keepdims=True)
  fill = jnp.asarray(fill, features.dtype)
  return jnp.where(in_time[:, :, None] | in_frequency[:, None], fill, features)


def _stripes(key, batch, length, num_masks, max_width, name):
  """Draws the union of an example's stripes, bool [batch, length]."""
  if num_masks < 0:
    raise ValueError(f'num_{name}_masks must not be negative, got {num_masks}.')
  if not 0 <= max_width <= length:
    raise ValueError(
      f'max_{name}_width must be in [0, {length}], got {max_width}.'
    )
  width_key, start_key = jax.random.split(key)
  width = jax.random.randint(width_key, (batch, num_masks, 1), 0, max_width + 1)
  start = jax.random.randint(start_key, width.shape, 0, length - width + 1)
  place = jnp.arange(length)[None, None]
  return ((place >= start) & (place < start + width)).any(axis=1)
