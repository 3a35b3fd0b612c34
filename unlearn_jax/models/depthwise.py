r"""Depthwise convolution over bins and frames, [channels, bins, frames, batch].

.. math:: y_{cotb} = \sum_j \sum_f B^j_{cof} \, x_{c f (t + j) b}

The sum over the few bins is a product with a banded matrix for each place j of
the kernel along the frames, and what remains are shifts of contiguous rows.
XLA's CPU backend has no fast grouped convolution, while products are fast, and
so are their gradients.
"""

import dataclasses

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.per_example import taps


def _places(height, bins, stride, padding):
  """Returns [height, outputs, bins]: one where an output reads a bin."""
  outputs = (bins + 2 * padding - height) // stride + 1
  reads = np.arange(outputs) * stride + np.arange(height)[:, None] - padding
  return np.asarray(reads[..., None] == np.arange(bins), np.float32)


def _shift(x, frames):
  """Moves [..., frames, batch] towards the start; zeros follow."""
  edges = [(0, 0, 0)] * x.ndim
  edges[-2] = (-frames, frames, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), edges)


@dataclasses.dataclass(frozen=True)
class DepthwiseOp(taps.Op):
  """The arithmetic of `Depthwise`.

  Attributes:
    stride: over bins.
    dilation: over frames.
    padding: zeros below and above the bins.
  """

  stride: int
  dilation: int
  padding: int

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Convolves x [channels, bins, frames, batch]."""
    weight = weight[:, :, 0].astype(x.dtype)
    bands = jnp.einsum('hwc,hof->wcof', weight, self._places_in(weight, x))
    parts = [jnp.einsum('cof,cftb->cotb', band, x) for band in bands]
    shifts = self._shifts(len(parts))
    return sum(_shift(y, by) for y, by in zip(parts, shifts, strict=True))

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, height, width, 1, channels]."""
    read = jnp.einsum('hof,cftb->hcotb', self._places_in(weight, x), x)
    grads = [
      jnp.einsum('hcotb,cotb->bhc', read, _shift(cotangent, -by))
      for by in self._shifts(weight.shape[1])
    ]
    return jnp.stack(grads, axis=2)[:, :, :, None]

  def _places_in(self, weight, x):
    places = _places(weight.shape[0], x.shape[1], self.stride, self.padding)
    return jnp.asarray(places, x.dtype)

  def _shifts(self, width):
    return [self.dilation * (j - width // 2) for j in range(width)]


class Depthwise(nn.Module):
  """Convolves each channel by itself; as many frames come out as go in.

  The parameters of `flax.linen.Conv` with one feature a group, and no bias.

  Attributes:
    size: of the kernel in bins and in frames, both odd.
    stride: over bins.
    dilation: over frames.
    padding: zeros below and above the bins.
  """

  size: tuple[int, int]
  stride: int = 1
  dilation: int = 1
  padding: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, bins, frames, batch] to [channels, outputs, ...]."""
    init = nn.initializers.variance_scaling(
      2.0, 'fan_in', 'normal', in_axis=(0, 1), batch_axis=(2, 3)
    )
    kernel = self.param('kernel', init, (*self.size, 1, x.shape[0]))
    op = DepthwiseOp(self.stride, self.dilation, self.padding)
    return taps.apply(op, kernel, x)
