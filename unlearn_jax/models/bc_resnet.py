"""BC-ResNet: broadcasted residual learning for keyword spotting.

A block convolves over bins on the whole map, averages over bins, convolves over
frames on what is left, and adds that to every bin of the map. GroupNorm with
one group takes the place of BatchNorm, so that the gradient of one example is
defined. Each band of bins has a scale and a bias of its own, as in the
SubSpectralNorm of the paper (Chang et al., ICASSP 2021); but the statistics are
those of all bands, for those of one band of one clip would take away how loud
it is. There is no dropout: a network here is a pure function.

Source: Kim et al., "Broadcasted Residual Learning for Efficient Keyword
Spotting", Interspeech 2021, https://arxiv.org/abs/2106.04140, table 1 and
figure 2.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models import heads
from unlearn_jax.models.dense import Dense
from unlearn_jax.models.depthwise import Depthwise
from unlearn_jax.models.norm import GroupNorm
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.models.standardise import standardise

_BANDS = 5
# Blocks, channels per 8 tau, stride over bins, dilation over frames.
STAGES = ((2, 1.0, 1, 1), (2, 1.5, 2, 2), (4, 2.0, 2, 4), (4, 2.5, 1, 8))


class SubSpectralNorm(nn.Module):
  """Normalises a clip, with a scale and a bias for each band of bins."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, bins, frames, batch] to the same shape."""
    channels, bins, *rest = x.shape
    bands = math.gcd(_BANDS, bins)  # 5 for 40 mel bins.
    y = x.reshape(channels * bands, bins // bands, *rest)
    return GroupNorm(1)(y).reshape(x.shape)


class Block(nn.Module):
  """A broadcasted residual block.

  Attributes:
    features: output channels; where they differ from those of the input, a
      convolution of one place stands first, and there is no shortcut.
    stride: over bins.
    dilation: over frames.
  """

  features: int
  stride: int
  dilation: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, bins, ...] to [features, bins / stride, ...]."""
    shortcut = x
    changes = x.shape[0] != self.features
    if changes:
      x = nn.relu(GroupNorm(1)(Dense(self.features, bias=False)(x)))
    x = Depthwise((3, 1), stride=self.stride, padding=1)(x)
    x = SubSpectralNorm()(x)
    y = Depthwise((1, 3), dilation=self.dilation)(x.mean(1, keepdims=True))
    y = nn.swish(GroupNorm(1)(y))
    x += Dense(self.features, bias=False)(y)
    return nn.relu(x if changes else x + shortcut)


class Stem(nn.Module):
  """Convolution of 5 bins and 5 frames with stride 2 over bins."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [bins, frames, batch] to [features, bins / 2, frames, batch]."""
    bins, frames, _ = x.shape
    x = jnp.pad(x, ((2, 2), (2, 2), (0, 0)))
    patches = jnp.stack(
      [x[i : i + bins : 2, j : j + frames] for i in range(5) for j in range(5)]
    )
    return nn.relu(GroupNorm(1)(Dense(self.features, bias=False)(patches)))


class Stage(nn.Module):
  """Blocks with the same channels; the first has the stride."""

  blocks: int
  features: int
  stride: int
  dilation: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, bins, ...] to [features, bins / stride, ...]."""
    for i in range(self.blocks):
      x = Block(self.features, 1 if i else self.stride, self.dilation)(x)
    return x


class Tail(nn.Module):
  """Convolution over all bins and 5 frames, then one of one place."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, bins, frames, batch] to [features, ..., batch]."""
    x = Depthwise((min(5, x.shape[1]), 5))(x)
    return nn.relu(GroupNorm(1)(Dense(self.features, bias=False)(x)))


class BCResNet(nn.Module):
  """BC-ResNet; 9.2 thousand parameters for tau 1, 321 thousand for tau 8.

  Attributes:
    num_classes: outputs.
    head: in `heads.HEADS`.
    tau: width of all layers; the paper has 1, 1.5, 2, 3, 6 and 8.
    stages: of each the blocks, the channels per 8 tau, the stride over bins
      and the dilation over frames.
  """

  num_classes: int
  head: str = 'softmax'
  tau: float = 1.0
  stages: tuple[tuple[int, float, int, int], ...] = STAGES

  @nn.compact
  def __call__(self, features: jax.Array) -> Outputs:
    """Maps log-mels [batch, frames, bins] to logits and embeddings.

    Args:
      features: any float type, any number of frames; 40 bins in the paper.
    """
    width = 8 * self.tau
    x = standardise(features).transpose()
    x = Stem(int(2 * width), name='stem')(x)
    for i, (blocks, factor, stride, dilation) in enumerate(self.stages):
      stage = Stage(
        blocks, int(factor * width), stride, dilation, name=f'stage_{i}'
      )
      x = stage(x)
    x = Tail(int(4 * width), name='tail')(x).mean((1, 2))
    return heads.outputs(x, self.head, self.num_classes, 'head')
