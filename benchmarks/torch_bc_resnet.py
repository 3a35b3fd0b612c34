"""BC-ResNet in the usual PyTorch style, for comparisons."""

import math

from torch import nn
import torch.nn.functional as F
import torch_layers as layers


class SubSpectralNorm(nn.Module):
  """As in `unlearn_jax.models.bc_resnet`; [batch, channels, bins, frames]."""

  def __init__(self, channels, bins):
    """Has a scale and a bias for each channel and band."""
    super().__init__()
    self.bands = math.gcd(5, bins)
    self.GroupNorm_0 = layers.group_norm(1, channels * self.bands)

  def forward(self, x):
    batch, channels, bins, frames = x.shape
    y = x.view(batch, channels * self.bands, bins // self.bands, frames)
    return self.GroupNorm_0(y).view(x.shape)


class Depthwise(nn.Conv2d):
  """Each channel by itself."""

  def __init__(self, channels, size, **options):
    """Has no bias."""
    super().__init__(
      channels, channels, size, groups=channels, bias=False, **options
    )


class Block(nn.Module):
  """As in `unlearn_jax.models.bc_resnet`."""

  def __init__(self, channels, features, bins, stride, dilation):
    """Takes the attributes of the Flax module."""
    super().__init__()
    self.changes = channels != features
    if self.changes:
      self.Dense_0 = nn.Conv2d(channels, features, 1, bias=False)
      self.GroupNorm_0 = layers.group_norm(1, features)
    self.Depthwise_0 = Depthwise(
      features, (3, 1), stride=(stride, 1), padding=(1, 0)
    )
    self.SubSpectralNorm_0 = SubSpectralNorm(features, bins)
    self.Depthwise_1 = Depthwise(
      features, (1, 3), dilation=(1, dilation), padding=(0, dilation)
    )
    last = int(self.changes)
    self.norm, self.dense = f'GroupNorm_{last}', f'Dense_{last}'
    self.add_module(self.norm, layers.group_norm(1, features))
    self.add_module(self.dense, nn.Conv2d(features, features, 1, bias=False))

  def forward(self, x):
    shortcut = 0 if self.changes else x
    if self.changes:
      x = F.relu(self.GroupNorm_0(self.Dense_0(x)))
    x = self.SubSpectralNorm_0(self.Depthwise_0(x))
    y = self.Depthwise_1(x.mean(2, keepdim=True))
    y = F.silu(self.get_submodule(self.norm)(y))
    return F.relu(x + self.get_submodule(self.dense)(y) + shortcut)


class Tail(nn.Module):
  """As in `unlearn_jax.models.bc_resnet`."""

  def __init__(self, channels, features, bins):
    """Takes the attributes of the Flax module."""
    super().__init__()
    size = (min(5, bins), 5)
    self.Depthwise_0 = Depthwise(channels, size, padding=(0, 2))
    self.Dense_0 = nn.Conv2d(channels, features, 1, bias=False)
    self.GroupNorm_0 = layers.group_norm(1, features)

  def forward(self, x):
    return F.relu(self.GroupNorm_0(self.Dense_0(self.Depthwise_0(x))))


class Stem(nn.Module):
  """As in `unlearn_jax.models.bc_resnet`."""

  def __init__(self, features):
    """Reads one channel."""
    super().__init__()
    self.Dense_0 = nn.Conv2d(1, features, 5, (2, 1), padding=2, bias=False)
    self.GroupNorm_0 = layers.group_norm(1, features)

  def forward(self, x):
    return F.relu(self.GroupNorm_0(self.Dense_0(x)))


class TorchBCResNet(nn.Module):
  """As `unlearn_jax.models.bc_resnet`."""

  def __init__(self, bins, classes, tau):
    """Takes the attributes of the Flax module."""
    super().__init__()
    base, bins = 8 * tau, -(-bins // 2)
    channels = int(2 * base)
    self.stem = Stem(channels)
    stages = ((2, 1.0, 1, 1), (2, 1.5, 2, 2), (4, 2.0, 2, 4), (4, 2.5, 1, 8))
    for i, (blocks, factor, stride, dilation) in enumerate(stages):
      features, bins = int(factor * base), -(-bins // stride)
      stage = nn.Sequential()
      for j in range(blocks):
        step = 1 if j else stride
        block = Block(channels, features, bins, step, dilation)
        stage.add_module(f'Block_{j}', block)
        channels = features
      self.add_module(f'stage_{i}', stage)
    self.tail = Tail(channels, int(4 * base), bins)
    self.head = nn.Linear(int(4 * base), classes)

  def forward(self, x):
    x = self.stem(layers.standardise(x).transpose(1, 2)[:, None])
    for i in range(4):
      x = self.get_submodule(f'stage_{i}')(x)
    return self.head(self.tail(x).mean((2, 3)))
