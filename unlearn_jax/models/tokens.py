"""Layers of transformers, for activations [batch, ..., channels].

Here the channels come last: the products of attention and the gradient of every
product then read and write their numbers where they lie.
"""

import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.per_example import taps

# A batch is multiplied in so many parts. XLA on CPU then takes its fast product
# for the gradient of the kernel too, a sum over very many rows.
_PARTS = 4


class Product(taps.Op):
  """Multiplies [batch, ..., channels] with a kernel [channels, features]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns [batch, ..., features]."""
    weight = weight.astype(x.dtype)
    parts = math.gcd(x.shape[0], _PARTS)
    if parts == 1 or jax.default_backend() != 'cpu':
      return jnp.tensordot(x, weight, 1)
    rows = x.reshape(parts, -1, x.shape[-1])
    weights = jnp.broadcast_to(weight, (parts, *weight.shape))
    y = jnp.einsum('prc,pcf->prf', rows, weights)
    return y.reshape(*x.shape[:-1], -1)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels, features]."""
    del weight
    return jnp.einsum('b...c,b...f->bcf', x, cotangent)


class Shift(taps.Op):
  """Adds a weight [...] to [batch, ...] or, with fewer axes, to its end."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x + _to_end_of(x, weight)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, *weight.shape]."""
    del x
    return cotangent.sum(tuple(range(1, cotangent.ndim - weight.ndim)))


class Scale(taps.Op):
  """Multiplies [batch, ..., channels] with a weight [channels]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x * _to_end_of(x, weight)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight
    return (x * cotangent).sum(tuple(range(1, x.ndim - 1)))


class Prepend(taps.Op):
  """Puts a weight [channels] in front of [batch, tokens, channels]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns [batch, tokens + 1, channels]."""
    first = jnp.broadcast_to(_to_end_of(x, weight), x[:, :1].shape)
    return jnp.concatenate([first, x], axis=1)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight, x
    return cotangent[:, 0]


def _to_end_of(x, weight):
  return jnp.expand_dims(weight.astype(x.dtype), range(x.ndim - weight.ndim))


class Linear(nn.Module):
  """A linear layer with the parameters of `flax.linen.Dense`.

  Attributes:
    features: outputs.
    bias: add a bias to each feature.
  """

  features: int
  bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, ..., channels] to [batch, ..., features]."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    y = taps.apply(Product(), kernel, x)
    if not self.bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return taps.apply(Shift(), bias, y)


class LayerNorm(nn.Module):
  """Normalises over channels, with the parameters of `flax.linen.LayerNorm`.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, ..., channels] to the same shape."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    x = x - x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True)
    x = x * lax.rsqrt(variance + self.epsilon)
    return taps.apply(Shift(), bias, taps.apply(Scale(), scale, x))
