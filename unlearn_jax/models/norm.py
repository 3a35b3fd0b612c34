"""Group normalisation for activations [channels, ..., batch]."""

import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.per_example import taps


class Scale(taps.Op):
  """Multiplies [channels, ..., batch] with a weight [channels]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x * _along_channels(weight, x)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight
    return by_example(x * cotangent).sum(-1)


class Shift(taps.Op):
  """Adds a weight [channels] to [channels, ..., batch]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x + _along_channels(weight, x)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight, x
    return by_example(cotangent).sum(-1)


def _along_channels(weight, x):
  return weight.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def by_example(x: jax.Array) -> jax.Array:
  """Turns [channels, ..., batch] into [batch, channels, rest]."""
  x = jnp.moveaxis(x, -1, 0)
  return x.reshape(*x.shape[:2], -1)


class GroupNorm(nn.Module):
  r"""Normalises each example within groups of neighbouring channels.

  .. math:: y = s (x - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + b

  The numbers and the parameters of `flax.linen.GroupNorm`. Sums over frames
  come first, so that all the rest but one multiplication and one addition
  works on [channels, batch].

  Attributes:
    groups: must divide the channels.
    epsilon: added to the variance.
  """

  groups: int
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, ..., batch] to the same shape.

    Raises:
      ValueError: if the groups do not divide the channels.
    """
    channels, *middle, batch = x.shape
    if channels % self.groups:
      raise ValueError(
        f'groups must divide the {channels} channels, got {self.groups}.'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    in_group = channels // self.groups
    between = tuple(range(1, x.ndim - 1))
    sums = jnp.stack([x.sum(between), jnp.square(x).sum(between)])
    sums = sums.reshape(2, self.groups, in_group, batch).sum(2)
    mean, mean_square = sums / (in_group * math.prod(middle))
    variance = jnp.maximum(mean_square - jnp.square(mean), 0.0)
    inverse = lax.rsqrt(variance + self.epsilon)
    mean, inverse = (jnp.repeat(a, in_group, axis=0) for a in (mean, inverse))
    if taps.active():
      mean, inverse = (jnp.expand_dims(a, between) for a in (mean, inverse))
      x = (x - mean) * inverse
      return taps.apply(Shift(), bias, taps.apply(Scale(), scale, x))
    gain = inverse * scale[:, None]
    shift = bias[:, None] - mean * gain
    return x * jnp.expand_dims(gain, between) + jnp.expand_dims(shift, between)
