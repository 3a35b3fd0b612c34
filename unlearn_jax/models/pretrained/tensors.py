"""Tensors as Hugging Face names them, and as leaves of our parameters.

`transformers` stores a linear layer as [outputs, inputs] and a convolution as
[outputs, inputs, width], layer by layer; here a kernel is [inputs, outputs] or
[width, inputs, outputs], and those of equal layers are stacked. Both ways only
move numbers: what was read is written bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from unlearn_jax.types import Params

Kind = Literal['same', 'linear', 'conv']
_AXES = {'linear': (1, 0), 'conv': (2, 1, 0)}  # Each is its own inverse.


class Tensor(NamedTuple):
  """One leaf of the parameters.

  Attributes:
    path: of the leaf, keys from the root.
    name: in a file; '{}' stands for the number of the layer, where leaves are
      stacked.
    shape: there, of one layer.
    kind: how axes move.
    layers: how many are stacked; 0 is none.
  """

  path: tuple[str, ...]
  name: str
  shape: tuple[int, ...]
  kind: Kind = 'same'
  layers: int = 0

  @property
  def names(self) -> list[str]:
    """Returns the names in a file."""
    if not self.layers:
      return [self.name]
    return [self.name.format(i) for i in range(self.layers)]

  @property
  def leaf_shape(self) -> tuple[int, ...]:
    """Returns the shape of the leaf."""
    axes = _AXES.get(self.kind, range(len(self.shape)))
    shape = tuple(self.shape[i] for i in axes)
    return (self.layers, *shape) if self.layers else shape


def linear(
  path: tuple[str, ...],
  name: str,
  inputs: int,
  outputs: int,
  *,
  bias: bool = True,
  layers: int = 0,
) -> list[Tensor]:
  """Returns the tensors of a linear layer."""
  found = [
    Tensor(
      (*path, 'kernel'), f'{name}.weight', (outputs, inputs), 'linear', layers
    )
  ]
  if bias:
    found.append(
      Tensor((*path, 'bias'), f'{name}.bias', (outputs,), layers=layers)
    )
  return found


def conv(
  path: tuple[str, ...],
  name: str,
  inputs: int,
  outputs: int,
  width: int,
  *,
  bias: bool = True,
) -> list[Tensor]:
  """Returns the tensors of a convolution."""
  shape = outputs, inputs, width
  found = [Tensor((*path, 'kernel'), f'{name}.weight', shape, 'conv')]
  if bias:
    found.append(Tensor((*path, 'bias'), f'{name}.bias', (outputs,)))
  return found


def norm(
  path: tuple[str, ...], name: str, channels: int, *, layers: int = 0
) -> list[Tensor]:
  """Returns the tensors of a norm."""
  return [
    Tensor((*path, ours), f'{name}.{theirs}', (channels,), layers=layers)
    for ours, theirs in (('scale', 'weight'), ('bias', 'bias'))
  ]


def transformer(
  name: str,
  theirs: Mapping[str, str],
  count: int,
  width: int,
  inner: int,
  *,
  key_bias: bool = True,
) -> list[Tensor]:
  """Returns the tensors of all layers of a transformer.

  Args:
    name: of a layer in a file, with '{}' for its number.
    theirs: the names within, by ours: query, key, value and output of
      attention, expand and contract, attention_norm and output_norm.
    count: of layers.
    width: channels of an activation.
    inner: channels between expand and contract.
    key_bias: whether the keys have one.
  """
  found = []
  for ours in ('query', 'key', 'value', 'output'):
    found += linear(
      ('layers', 'attention', ours),
      f'{name}.{theirs[ours]}',
      width,
      width,
      bias=key_bias or ours != 'key',
      layers=count,
    )
  for ours, sizes in (('expand', (width, inner)), ('contract', (inner, width))):
    found += linear(
      ('layers', ours), f'{name}.{theirs[ours]}', *sizes, layers=count
    )
  for ours in ('attention_norm', 'output_norm'):
    found += norm(
      ('layers', ours), f'{name}.{theirs[ours]}', width, layers=count
    )
  return found


def to_params(
  tensors: Sequence[Tensor], read: Callable[[str], np.ndarray]
) -> Params:
  """Returns a tree of NumPy arrays.

  Args:
    tensors: the leaves.
    read: returns the array of a name in a file.
  """

  def leaf(tensor):
    arrays = [_moved(tensor, read(name)) for name in tensor.names]
    return (
      np.stack(arrays) if tensor.layers else np.ascontiguousarray(arrays[0])
    )

  return tree(tensors, leaf)


def from_params(
  tensors: Sequence[Tensor], params: Params
) -> dict[str, np.ndarray]:
  """Returns the arrays by their names in a file."""
  found = {}
  for tensor in tensors:
    leaf = params
    for key in tensor.path:
      leaf = leaf[key]
    leaf = np.asarray(jax.device_get(leaf))
    for name, array in zip(
      tensor.names, leaf if tensor.layers else [leaf], strict=True
    ):
      found[name] = np.ascontiguousarray(_moved(tensor, array))
  return found


def _moved(tensor, array):
  """Moves the axes of one layer, either way."""
  return np.transpose(array, _AXES.get(tensor.kind, range(array.ndim)))


def tree(tensors: Sequence[Tensor], leaf: Callable[[Tensor], object]) -> Params:
  """Returns the tree with leaf(tensor) in the place of each."""
  root: dict = {}
  for tensor in tensors:
    node = root
    for key in tensor.path[:-1]:
      node = node.setdefault(key, {})
    node[tensor.path[-1]] = leaf(tensor)
  return root


def shapes(tensors: Sequence[Tensor]) -> Mapping[str, tuple[int, ...]]:
  """Returns the shape in a file by name."""
  return {name: t.shape for t in tensors for name in t.names}
