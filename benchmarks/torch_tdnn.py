"""x-vector and ECAPA-TDNN in the usual PyTorch style, for comparisons."""

import torch
from torch import nn
import torch.nn.functional as F
import torch_layers as layers


def statistics(x, weights=None):
  """Returns means and standard deviations over frames, [batch, 2 channels]."""
  if weights is None:
    variance, mean = torch.var_mean(x, -1, correction=0)
  else:
    mean = (weights * x).sum(-1)
    variance = (weights * (x - mean[..., None]).square()).sum(-1)
  return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], 1)


class TDNN(nn.Module):
  """Convolution, ReLU, normalisation."""

  def __init__(self, channels, features, width, dilation, group_size):
    """Has a bias."""
    super().__init__()
    self.Conv1d_0 = nn.Conv1d(
      channels, features, width, padding='same', dilation=dilation
    )
    self.GroupNorm_0 = layers.group_norm(features // group_size, features)

  def forward(self, x):
    return self.GroupNorm_0(F.relu(self.Conv1d_0(x)))


class TorchXVector(nn.Module):
  """As `unlearn_jax.models.x_vector`."""

  def __init__(self, bins, classes, widths, embedding_size, group_size):
    """Takes the attributes of the Flax module."""
    super().__init__()
    contexts = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    for i, (width, context) in enumerate(zip(widths, contexts, strict=True)):
      layer = TDNN((bins, *widths)[i], width, *context, group_size)
      self.add_module(f'frame{i + 1}', layer)
    self.segment6 = nn.Linear(2 * widths[-1], embedding_size)
    self.head = nn.Linear(embedding_size, classes)

  def forward(self, x):
    x = layers.standardise(x).transpose(1, 2)
    for i in range(1, 6):
      x = self.get_submodule(f'frame{i}')(x)
    return self.head(self.segment6(statistics(x)))


class Res2(nn.Module):
  """As in `unlearn_jax.models.ecapa_tdnn`."""

  def __init__(self, channels, scale, dilation, group_size):
    """Has one layer less than there are parts."""
    super().__init__()
    self.scale = scale
    part = channels // scale
    for i in range(scale - 1):
      self.add_module(f'TDNN_{i}', TDNN(part, part, 3, dilation, group_size))

  def forward(self, x):
    first, *parts = x.chunk(self.scale, 1)
    outputs = [first]
    for i, part in enumerate(parts):
      layer = self.get_submodule(f'TDNN_{i}')
      outputs.append(layer(part + outputs[-1] if i else part))
    return torch.cat(outputs, 1)


class SqueezeExcitation(nn.Module):
  """As in `unlearn_jax.models.ecapa_tdnn`."""

  def __init__(self, channels, bottleneck):
    """Has two linear layers."""
    super().__init__()
    self.Dense_0 = nn.Linear(channels, bottleneck)
    self.Dense_1 = nn.Linear(bottleneck, channels)

  def forward(self, x):
    gate = F.relu(self.Dense_0(x.mean(-1)))
    return x * torch.sigmoid(self.Dense_1(gate))[..., None]


class SERes2Block(nn.Module):
  """As in `unlearn_jax.models.ecapa_tdnn`."""

  def __init__(self, channels, scale, dilation, bottleneck, group_size):
    """Takes the attributes of the Flax module."""
    super().__init__()
    self.TDNN_0 = TDNN(channels, channels, 1, 1, group_size)
    self.Res2_0 = Res2(channels, scale, dilation, group_size)
    self.TDNN_1 = TDNN(channels, channels, 1, 1, group_size)
    self.SqueezeExcitation_0 = SqueezeExcitation(channels, bottleneck)

  def forward(self, x):
    y = self.TDNN_1(self.Res2_0(self.TDNN_0(x)))
    return x + self.SqueezeExcitation_0(y)


class AttentiveStatistics(nn.Module):
  """As in `unlearn_jax.models.ecapa_tdnn`."""

  def __init__(self, channels, bottleneck, group_size):
    """Takes the attributes of the Flax module."""
    super().__init__()
    self.Conv1d_0 = nn.Conv1d(channels, bottleneck, 1, bias=False)
    self.Dense_0 = nn.Linear(2 * channels, bottleneck)
    self.GroupNorm_0 = layers.group_norm(bottleneck // group_size, bottleneck)
    self.Conv1d_1 = nn.Conv1d(bottleneck, channels, 1)
    self.GroupNorm_1 = layers.group_norm(2, 2 * channels)

  def forward(self, x):
    hidden = self.Conv1d_0(x) + self.Dense_0(statistics(x))[..., None]
    hidden = torch.tanh(self.GroupNorm_0(F.relu(hidden)))
    weights = self.Conv1d_1(hidden).softmax(-1)
    return self.GroupNorm_1(statistics(x, weights))


class TorchECAPATDNN(nn.Module):
  """As `unlearn_jax.models.ecapa_tdnn`."""

  def __init__(
    self,
    bins,
    classes,
    channels,
    aggregated,
    scale,
    bottleneck,
    embedding_size,
    group_size,
  ):
    """Takes the attributes of the Flax module."""
    super().__init__()
    self.conv = TDNN(bins, channels, 5, 1, group_size)
    for i, dilation in enumerate((2, 3, 4)):
      block = SERes2Block(channels, scale, dilation, bottleneck, group_size)
      self.add_module(f'block_{i}', block)
    self.aggregation = TDNN(3 * channels, aggregated, 1, 1, group_size)
    self.pooling = AttentiveStatistics(aggregated, bottleneck, group_size)
    self.embedding = nn.Linear(2 * aggregated, embedding_size)
    self.head = nn.Linear(embedding_size, classes)

  def forward(self, x):
    total = self.conv(layers.standardise(x).transpose(1, 2))
    outputs = []
    for i in range(3):
      outputs.append(self.get_submodule(f'block_{i}')(total))
      total = total + outputs[-1]
    x = self.pooling(self.aggregation(torch.cat(outputs, 1)))
    return self.head(self.embedding(x))
