"""TC-ResNet8: temporal convolution for keyword spotting.

Frequency bins are the channels of a one-dimensional convolution over time:
one convolution of width 3, then three residual blocks of width 9, each of
which halves the frame rate; mean over time; a linear layer. GroupNorm takes
the place of BatchNorm, so that the gradient of one example is defined.

Source: Choi et al., "Temporal Convolution for Real-time Keyword Spotting on
Mobile Devices", Interspeech 2019, https://arxiv.org/abs/1904.03814, figure 2.
"""

from flax import linen as nn
import jax

from unlearn_jax.models import heads
from unlearn_jax.models.conv import Conv1d
from unlearn_jax.models.norm import GroupNorm
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.models.standardise import standardise


class ResidualBlock(nn.Module):
  """Two convolutions of width 9, the first with stride 2, and a shortcut."""

  features: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to [features, frames / 2, batch]."""
    shortcut = Conv1d(self.features, width=1, stride=2)(x)
    shortcut = nn.relu(GroupNorm(self.groups)(shortcut))
    x = Conv1d(self.features, width=9, stride=2)(x)
    x = nn.relu(GroupNorm(self.groups)(x))
    x = Conv1d(self.features, width=9)(x)
    return nn.relu(GroupNorm(self.groups)(x) + shortcut)


class TCResNet8(nn.Module):
  """TC-ResNet8 with GroupNorm; 66 thousand parameters for 40 mel bins.

  Attributes:
    num_classes: outputs.
    head: in `heads.HEADS`.
    widths: channels of the first convolution and of the three blocks.
    groups: of every GroupNorm.
  """

  num_classes: int
  head: str = 'softmax'
  widths: tuple[int, ...] = (16, 24, 32, 48)
  groups: int = 8

  @nn.compact
  def __call__(self, features: jax.Array) -> Outputs:
    """Maps log-mels [batch, frames, bins] to logits and embeddings.

    Args:
      features: any float type, any number of frames.
    """
    x = standardise(features).transpose()
    x = Conv1d(self.widths[0], width=3)(x)
    for width in self.widths[1:]:
      x = ResidualBlock(width, self.groups)(x)
    x = x.mean(1)
    return heads.outputs(x, self.head, self.num_classes, 'Dense_0')
