r"""ECAPA-TDNN for speaker recognition.

A convolution, three blocks with dilation 2, 3 and 4, a layer that reads all
three, mean and standard deviation over time with attention of each channel to
the frames, and a linear layer whose output is the embedding. GroupNorm takes
the place of BatchNorm, so that the gradient of one example is defined.

Source: Desplanques et al., "ECAPA-TDNN: Emphasized Channel Attention,
Propagation and Aggregation in TDNN Based Speaker Verification", Interspeech
2020, https://arxiv.org/abs/2005.07143, figures 1 and 2. The paper normalises
the embedding once more; here the head reads the output of the linear layer.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models import heads
from unlearn_jax.models.conv import Conv1d
from unlearn_jax.models.dense import Dense
from unlearn_jax.models.norm import GroupNorm
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.models.standardise import standardise
from unlearn_jax.models.tdnn import statistics
from unlearn_jax.models.tdnn import TDNN

_DILATIONS = (2, 3, 4)


class Res2(nn.Module):
  r"""Convolutions of `scale` parts of the channels, each fed by the last.

  .. math:: y_1 = x_1, \quad y_2 = K_2(x_2), \quad y_i = K_i(x_i + y_{i-1})

  Source: Gao et al., "Res2Net", TPAMI 2021, equation 1.
  """

  scale: int
  dilation: int
  group_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to the same shape."""
    first, *parts = jnp.split(x, self.scale)
    outputs = [first]
    for i, part in enumerate(parts):
      layer = TDNN(part.shape[0], 3, self.dilation, self.group_size)
      outputs.append(layer(part + outputs[-1] if i else part))
    return jnp.concatenate(outputs)


class SqueezeExcitation(nn.Module):
  """Weights each channel by what the mean over time of all channels says."""

  bottleneck: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to the same shape."""
    gate = nn.relu(Dense(self.bottleneck)(x.mean(1)))
    return x * nn.sigmoid(Dense(x.shape[0])(gate))[:, None]


class SERes2Block(nn.Module):
  """One by one, Res2, one by one, squeeze and excitation, a shortcut."""

  scale: int
  dilation: int
  bottleneck: int
  group_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to the same shape."""
    y = TDNN(x.shape[0], 1, group_size=self.group_size)(x)
    y = Res2(self.scale, self.dilation, self.group_size)(y)
    y = TDNN(x.shape[0], 1, group_size=self.group_size)(y)
    return x + SqueezeExcitation(self.bottleneck)(y)


class AttentiveStatistics(nn.Module):
  r"""Mean and standard deviation with weights that depend on the whole clip.

  .. math:: \alpha_{ct} = \text{softmax}_t(
      v_c^T f(W [h_t; \mu; \sigma] + b) + k_c)

  The product with :math:`[h_t; \mu; \sigma]` is taken in two parts: that of the
  statistics is the same for all frames.
  """

  bottleneck: int
  group_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to [2 channels, batch], normalised."""
    hidden = Conv1d(self.bottleneck, width=1)(x)
    hidden += Dense(self.bottleneck)(statistics(x))[:, None]
    hidden = GroupNorm(self.bottleneck // self.group_size)(nn.relu(hidden))
    scores = Conv1d(x.shape[0], width=1, bias=True)(jnp.tanh(hidden))
    pooled = statistics(x, nn.softmax(scores, axis=1))
    # Means and deviations are one group each.
    return GroupNorm(2)(pooled[:, None])[:, 0]


class ECAPATDNN(nn.Module):
  """ECAPA-TDNN; 6.2 million parameters before the head for 80 mel bins.

  Attributes:
    num_classes: outputs.
    head: in `heads.HEADS`.
    channels: C, of the first convolution and the blocks.
    aggregated: channels of the layer that reads all blocks.
    scale: parts of the channels in a Res2 convolution.
    bottleneck: of the attention and of squeeze and excitation.
    embedding_size: d.
    group_size: channels that are normalised together; must divide
      `channels / scale`, `aggregated` and `bottleneck`.
  """

  num_classes: int
  head: str = 'softmax'
  channels: int = 512
  aggregated: int = 1536
  scale: int = 8
  bottleneck: int = 128
  embedding_size: int = 192
  group_size: int = 16

  @nn.compact
  def __call__(self, features: jax.Array) -> Outputs:
    """Maps log-mels [batch, frames, bins] to logits and embeddings.

    Args:
      features: any float type, any number of frames.
    """
    x = standardise(features).transpose()
    size = self.group_size
    total = TDNN(self.channels, 5, group_size=size, name='conv')(x)
    outputs = []
    for i, dilation in enumerate(_DILATIONS):
      # A block reads the sum of all that came before it.
      block = SERes2Block(
        self.scale, dilation, self.bottleneck, size, name=f'block_{i}'
      )
      outputs.append(block(total))
      total += outputs[-1]
    x = jnp.concatenate(outputs)
    x = TDNN(self.aggregated, 1, group_size=size, name='aggregation')(x)
    x = AttentiveStatistics(self.bottleneck, size, name='pooling')(x)
    x = Dense(self.embedding_size, name='embedding')(x)
    return heads.outputs(x, self.head, self.num_classes, 'head')
