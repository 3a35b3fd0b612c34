"""Convolutions over time for activations [batch, frames, channels].

On CPU and GPU they are sums of matrix products: XLA takes a slow path for
convolutions inside a loop on the one, and cuDNN for groups on the other (on an
H100 a step of HuBERT-base, 32 clips of 5 s, takes 52 ms with its groups and 38
without). On a TPU the native convolution is used.
"""

import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.models.tokens import Product

_CHUNK = 16  # Taps of a wide kernel in one product; bounds the memory.
_DIMENSIONS = ('NWC', 'WIO', 'NWC')


def valid(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves without padding.

  Args:
    x: [batch, frames, channels].
    kernel: [width, channels, features], cast to the type of x.
    stride: in frames.

  Returns:
    [batch, (frames - width) // stride + 1, features].
  """
  kernel = kernel.astype(x.dtype)
  width, channels, features = kernel.shape
  if jax.default_backend() == 'tpu' and channels > 1:
    return lax.conv_general_dilated(
      x, kernel, (stride,), 'VALID', dimension_numbers=_DIMENSIONS
    )
  frames = (x.shape[1] - width) // stride + 1
  # Whole strides lie side by side, so that no slice has steps.
  strides = frames + (width - 1) // stride
  x = x[:, : strides * stride]
  x = jnp.pad(x, ((0, 0), (0, strides * stride - x.shape[1]), (0, 0)))
  x = x.reshape(x.shape[0], strides, stride * channels)
  parts = []
  for first in range(0, width, stride):
    count = min(stride, width - first) * channels
    start = first // stride
    parts.append(x[:, start : start + frames, :count])
  patches = jnp.concatenate(parts, -1)
  return Product()(kernel.reshape(-1, features), patches)


def grouped_same(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
  """Convolves each group of channels by itself, as many frames as came in.

  Args:
    x: [batch, frames, channels].
    kernel: [width, channels / groups, features], cast to the type of x; frame t
      sees from t - width // 2 on.
    groups: they divide channels and features.

  Returns:
    [batch, frames, features].
  """
  kernel = kernel.astype(x.dtype)
  width, inputs, features = kernel.shape
  before = width // 2
  padding = before, width - 1 - before
  if jax.default_backend() == 'tpu':
    return lax.conv_general_dilated(
      x,
      kernel,
      (1,),
      [padding],
      dimension_numbers=_DIMENSIONS,
      feature_group_count=groups,
    )
  batch, frames, _ = x.shape
  # Taps that reach no frame at all are left out.
  taps = range(max(0, before - frames + 1), min(width, before + frames))
  # Groups first, as a product over batches of them wants its operands.
  x = x.reshape(batch, frames, groups, inputs).transpose(2, 0, 1, 3)
  x = jnp.pad(x, ((0, 0), (0, 0), padding, (0, 0)))
  kernel = kernel.reshape(width, inputs, groups, -1).transpose(2, 0, 1, 3)
  total = jnp.zeros((groups, batch * frames, features // groups), x.dtype)
  for start in range(taps.start, taps.stop, _CHUNK):
    stop = min(start + _CHUNK, taps.stop)
    seen = [x[:, :, i : i + frames] for i in range(start, stop)]
    rows = jnp.concatenate(seen, -1).reshape(groups, batch * frames, -1)
    total += rows @ kernel[:, start:stop].reshape(groups, rows.shape[-1], -1)
  total = total.reshape(groups, batch, frames, -1).transpose(1, 2, 0, 3)
  return total.reshape(batch, frames, features)
