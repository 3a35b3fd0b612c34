"""TC-ResNet8 in the usual PyTorch style, for comparisons."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from unlearn_jax.training.recipe import Recipe

SHAPE, CLASSES = (98, 40), 20
WIDTHS, GROUPS = (16, 24, 32, 48), 8


class TorchConv(nn.Module):
  """Convolution with 'SAME' padding; the plain layer inside suits Opacus."""

  def __init__(self, channels, features, width, stride=1):
    """Has no bias."""
    super().__init__()
    self.conv = nn.Conv1d(channels, features, width, stride, bias=False)

  def forward(self, x):
    width, stride = self.conv.kernel_size[0], self.conv.stride[0]
    frames = x.shape[-1]
    total = max((-(-frames // stride) - 1) * stride + width - frames, 0)
    return self.conv(F.pad(x, (total // 2, total - total // 2)))


class TorchBlock(nn.Module):
  """The residual block of TC-ResNet8."""

  def __init__(self, channels, features):
    """Names the layers in the order in which Flax numbers them."""
    super().__init__()
    self.convs = nn.ModuleList(
      [
        TorchConv(channels, features, 1, 2),
        TorchConv(channels, features, 9, 2),
        TorchConv(features, features, 9),
      ]
    )
    self.norms = nn.ModuleList(
      nn.GroupNorm(GROUPS, features, eps=1e-6) for _ in range(3)
    )

  def forward(self, x):
    shortcut = F.relu(self.norms[0](self.convs[0](x)))
    x = F.relu(self.norms[1](self.convs[1](x)))
    return F.relu(self.norms[2](self.convs[2](x)) + shortcut)


class TorchTCResNet8(nn.Module):
  """TC-ResNet8 in the usual PyTorch style, [batch, channels, frames]."""

  def __init__(self):
    """Initialises as PyTorch does."""
    super().__init__()
    self.conv = TorchConv(SHAPE[1], WIDTHS[0], 3)
    pairs = zip(WIDTHS, WIDTHS[1:], strict=False)
    self.blocks = nn.ModuleList(TorchBlock(*pair) for pair in pairs)
    self.dense = nn.Linear(WIDTHS[-1], CLASSES)

  def forward(self, x):
    mean = x.mean((-2, -1), keepdim=True)
    std = x.std((-2, -1), keepdim=True, unbiased=False)
    x = self.conv(((x - mean) / (std + 1e-3)).transpose(1, 2))
    for block in self.blocks:
      x = block(x)
    return self.dense(x.mean(-1))


def copy_params(params, network: TorchTCResNet8) -> None:
  """Gives the PyTorch network the parameters of the Flax one."""

  def put(target, value):
    target.data = torch.tensor(np.asarray(value))

  def put_conv(conv, layer):
    put(conv.conv.weight, layer['kernel'].transpose(2, 1, 0))

  put_conv(network.conv, params['Conv1d_0'])
  for i, block in enumerate(network.blocks):
    layers = params[f'ResidualBlock_{i}']
    for j in range(3):
      put_conv(block.convs[j], layers[f'Conv1d_{j}'])
      put(block.norms[j].weight, layers[f'GroupNorm_{j}']['scale'])
      put(block.norms[j].bias, layers[f'GroupNorm_{j}']['bias'])
  put(network.dense.weight, params['Dense_0']['kernel'].T)
  put(network.dense.bias, params['Dense_0']['bias'])


def epoch(
  network: TorchTCResNet8, features, label, recipe: Recipe
) -> Callable[[], None]:
  """Returns a training epoch, ready to be called."""
  features, label = torch.tensor(features), torch.tensor(label).long()
  optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate)

  def candidate():
    for rows in torch.randperm(len(label)).split(recipe.batch_size):
      optimizer.zero_grad()
      logits = network(features[rows].float())
      F.cross_entropy(logits, label[rows]).backward()
      nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
      optimizer.step()

  return candidate
