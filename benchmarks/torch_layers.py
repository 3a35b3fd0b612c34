"""What the PyTorch twins share; their layers have the names that Flax gives."""

import jax
import numpy as np
import torch
from torch import nn


def standardise(x):
  """As `unlearn_jax.models.standardise`."""
  mean = x.mean((-2, -1), keepdim=True)
  std = x.std((-2, -1), keepdim=True, unbiased=False)
  return (x - mean) / (std + 1e-3)


def group_norm(groups, channels):
  return nn.GroupNorm(groups, channels, eps=1e-6)


def copy_params(params, network: nn.Module) -> None:
  """Gives a PyTorch network the parameters of the Flax one.

  Kernels have their axes in the opposite order, but for the two axes over which
  a convolution moves; other weights have those of Flax.
  """
  left = dict(network.named_parameters())
  for path, leaf in jax.tree.leaves_with_path(params):
    *modules, name = (key.key for key in path)
    value = np.asarray(leaf)
    if name == 'kernel':
      value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    name = {'kernel': 'weight', 'scale': 'weight'}.get(name, name)
    target = left.pop('.'.join([*modules, name]))
    target.data = torch.tensor(value).reshape(target.shape)
  if left:
    raise ValueError(f'{", ".join(left)}: no such parameters in Flax.')
