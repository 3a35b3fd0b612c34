"""Keyword Transformer in the usual PyTorch style, for comparisons."""

import torch
from torch import nn
import torch.nn.functional as F
import torch_layers as layers


class Tokens(nn.Module):
  """As in `unlearn_jax.models.kwt`."""

  def __init__(self, frames, bins, width):
    """Has a class token and positions."""
    super().__init__()
    self.Linear_0 = nn.Linear(bins, width)
    self.class_token = nn.Parameter(torch.zeros(width))
    self.positions = nn.Parameter(torch.zeros(frames + 1, width))

  def forward(self, x):
    x = self.Linear_0(x)
    first = self.class_token.expand(len(x), 1, -1)
    return torch.cat([first, x], 1) + self.positions


class Attention(nn.Module):
  """As in `unlearn_jax.models.kwt`."""

  def __init__(self, width):
    """Has 64 channels a head."""
    super().__init__()
    self.Linear_0 = nn.Linear(width, 3 * width, bias=False)
    self.Linear_1 = nn.Linear(width, width)

  def forward(self, x):
    batch, tokens, width = x.shape
    qkv = self.Linear_0(x).reshape(batch, tokens, 3, width // 64, 64)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    x = F.scaled_dot_product_attention(q, k, v)
    return self.Linear_1(x.transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
  """As in `unlearn_jax.models.kwt`."""

  def __init__(self, width):
    """Normalises after each sum."""
    super().__init__()
    self.Attention_0 = Attention(width)
    self.LayerNorm_0 = nn.LayerNorm(width, eps=1e-6)
    self.Linear_0 = nn.Linear(width, 4 * width)
    self.Linear_1 = nn.Linear(4 * width, width)
    self.LayerNorm_1 = nn.LayerNorm(width, eps=1e-6)

  def forward(self, x):
    x = self.LayerNorm_0(x + self.Attention_0(x))
    return self.LayerNorm_1(x + self.Linear_1(F.gelu(self.Linear_0(x))))


class TorchKWT(nn.Module):
  """As `unlearn_jax.models.kwt`."""

  def __init__(self, frames, bins, classes, width, depth):
    """Takes the attributes of the Flax module."""
    super().__init__()
    self.tokens = Tokens(frames, bins, width)
    for i in range(depth):
      self.add_module(f'layer_{i}', Layer(width))
    self.depth = depth
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, classes)

  def forward(self, x):
    x = self.tokens(layers.standardise(x))
    for i in range(self.depth):
      x = self.get_submodule(f'layer_{i}')(x)
    return self.head(self.norm(x[:, 0]))
