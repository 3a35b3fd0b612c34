"""What time-delay neural networks share: their layer, and pooling over time."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models.conv import Conv1d
from unlearn_jax.models.norm import GroupNorm


class TDNN(nn.Module):
  """Convolution with a bias, ReLU, normalisation, in this order.

  GroupNorm takes the place of BatchNorm, so that the gradient of one example is
  defined.

  Attributes:
    features: output channels.
    width: kernel size in frames.
    dilation: frames from one tap of the kernel to the next.
    group_size: channels that are normalised together; must divide `features`.
  """

  features: int
  width: int
  dilation: int = 1
  group_size: int = 16

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to [features, frames, batch]."""
    x = Conv1d(self.features, self.width, dilation=self.dilation, bias=True)(x)
    return GroupNorm(self.features // self.group_size)(nn.relu(x))


def statistics(x: jax.Array, weights: jax.Array | None = None) -> jax.Array:
  """Returns means and standard deviations over frames, [2 channels, batch].

  Args:
    x: [channels, frames, batch].
    weights: of the same shape, with sum 1 over frames; None is the same for
      all. The variance is that of the weighted sample, no correction.
  """
  if weights is None:
    mean = x.mean(1)
    variance = jnp.square(x - mean[:, None]).mean(1)
  else:
    mean = (weights * x).sum(1)
    variance = (weights * jnp.square(x - mean[:, None])).sum(1)
  # The slope of the root has no bound at 0, where a channel is constant.
  return jnp.concatenate([mean, jnp.sqrt(jnp.maximum(variance, 1e-6))])
