"""One-dimensional convolution that is fast under `scan` and `vmap`.

XLA's CPU backend takes a slow path for convolutions inside a loop body, and
for convolutions vmapped over their kernel. There the same sum is computed as
one matrix product over patches; elsewhere the native convolution is used. The
parameters are those of `flax.linen.Conv` either way.
"""

from typing import Literal

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Implementation = Literal['auto', 'patches', 'native']


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
  """Zeros before and after for 'SAME' padding, as in XLA."""
  outputs = -(-length // stride)
  total = max((outputs - 1) * stride + kernel - length, 0)
  return total // 2, total - total // 2


def patches_conv1d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves with 'SAME' padding as one matrix product over patches.

  Args:
    x: [..., frames, channels].
    kernel: [width, channels, features].
    stride: in frames.

  Returns:
    [..., ceil(frames / stride), features].
  """
  width, channels, features = kernel.shape
  frames = x.shape[-2]
  outputs = -(-frames // stride)
  before, after = same_padding(frames, width, stride)
  no_pad = [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, [*no_pad, (before, after), (0, 0)])
  last = stride * (outputs - 1) + 1
  shifted = [x[..., i : i + last : stride, :] for i in range(width)]
  patches = jnp.concatenate(shifted, axis=-1)
  return patches @ kernel.reshape(width * channels, features)


def native_conv1d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """The same by `lax.conv_general_dilated`; x is [batch, frames, channels]."""
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,),
    padding='SAME',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )


class Conv1d(nn.Module):
  """Convolution over frames with 'SAME' padding and no bias.

  Attributes:
    features: output channels.
    width: kernel size in frames.
    stride: in frames.
    implementation: 'patches', 'native', or 'auto': patches on CPU.
  """

  features: int
  width: int
  stride: int = 1
  implementation: Implementation = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, frames, channels] to [batch, frames / stride, features]."""
    kernel = self.param(
      'kernel',
      nn.initializers.he_normal(),
      (self.width, x.shape[-1], self.features),
    )
    implementation = self.implementation
    if implementation == 'auto':
      on_cpu = jax.default_backend() == 'cpu'
      implementation = 'patches' if on_cpu else 'native'
    conv = patches_conv1d if implementation == 'patches' else native_conv1d
    return conv(x, kernel.astype(x.dtype), self.stride)
