"""One-dimensional convolution that is fast under `scan` and `vmap`.

XLA's CPU backend takes a slow path for convolutions inside a loop body, and
for convolutions vmapped over their kernel. There the same sum is computed as
one matrix product over patches; elsewhere the native convolution is used. The
parameters are those of `flax.linen.Conv` either way.

Activations are [channels, frames, batch]: with the batch last, every shift over
frames copies contiguous rows, and the product and its two gradients run over
long rows, which on a CPU is faster than [batch, frames, channels].
"""

from typing import Literal

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Implementation = Literal['auto', 'patches', 'native']


def patches_conv1d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves with 'SAME' padding as one matrix product over patches.

  Args:
    x: [channels, frames, batch].
    kernel: [width, channels, features].
    stride: in frames.

  Returns:
    [features, ceil(frames / stride), batch].
  """
  width, channels, features = kernel.shape
  frames, batch = x.shape[1:]
  outputs = -(-frames // stride)
  # Whole strides, of which tap i takes frame i % stride of stride i // stride:
  # so no slice has steps, whose gradients are slow.
  strides = outputs + (width - 1) // stride
  before = max((outputs - 1) * stride + width - frames, 0) // 2
  after = strides * stride - before - frames
  x = jnp.pad(x, ((0, 0), (before, max(after, 0)), (0, 0)))
  x = x[:, : strides * stride].reshape(channels, strides, stride, batch)
  taps = [divmod(i, stride) for i in range(width)]
  shifted = [x[:, first : first + outputs, r] for first, r in taps]
  patches = jnp.stack(shifted, axis=1)  # [channels, width, outputs, batch]
  y = lax.dot_general(
    kernel.transpose(1, 0, 2).reshape(channels * width, features),
    patches.reshape(channels * width, outputs * batch),
    (((0,), (0,)), ((), ())),
  )
  return y.reshape(features, outputs, batch)


def native_conv1d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """The same by `lax.conv_general_dilated`."""
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,),
    padding='SAME',
    dimension_numbers=('CWN', 'WIO', 'CWN'),
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
    """Maps [channels, frames, batch] to [features, frames / stride, batch]."""
    kernel = self.param(
      'kernel',
      nn.initializers.he_normal(),
      (self.width, x.shape[0], self.features),
    )
    implementation = self.implementation
    if implementation == 'auto':
      on_cpu = jax.default_backend() == 'cpu'
      implementation = 'patches' if on_cpu else 'native'
    conv = patches_conv1d if implementation == 'patches' else native_conv1d
    return conv(x, kernel.astype(x.dtype), self.stride)
