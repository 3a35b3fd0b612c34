"""Linear layer for activations [channels, ..., batch]."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models.norm import by_example
from unlearn_jax.models.norm import Shift
from unlearn_jax.per_example import taps


class Product(taps.Op):
  """Multiplies [channels, ..., batch] with a kernel [channels, features]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns [features, ..., batch]."""
    return jnp.tensordot(weight.astype(x.dtype), x, (0, 0))

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels, features]."""
    del weight
    return jnp.einsum('bct,bft->bcf', by_example(x), by_example(cotangent))

  def squared_norms(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch]."""
    if x.ndim > 2:
      return super().squared_norms(weight, x, cotangent)
    # The gradient has rank one.
    return jnp.square(x).sum(0) * jnp.square(cotangent).sum(0)


class Dense(nn.Module):
  """A linear layer with the parameters of `flax.linen.Dense`.

  Attributes:
    features: outputs.
    bias: add a bias to each feature.
  """

  features: int
  bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, ..., batch] to [features, ..., batch]."""
    shape = (x.shape[0], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    y = taps.apply(Product(), kernel, x)
    if not self.bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return taps.apply(Shift(), bias, y)
