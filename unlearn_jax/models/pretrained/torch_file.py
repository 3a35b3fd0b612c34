"""Reads the tensors of a `pytorch_model.bin` without running what is in it.

Such a file is a zip archive of a pickle and of raw numbers. A pickle may call
any function; this reader knows the few that make tensors, and refuses a file
that names another.
"""

import collections
from collections.abc import Mapping
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np

from unlearn_jax.types import InputError

_STORAGES = {
  'BoolStorage': np.bool_,
  'ByteStorage': np.uint8,
  'CharStorage': np.int8,
  'ShortStorage': np.int16,
  'IntStorage': np.int32,
  'LongStorage': np.int64,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'FloatStorage': np.float32,
  'DoubleStorage': np.float64,
}


def read(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """Returns the tensors of a file by name, read-only.

  Raises:
    InputError: if the file is damaged, older than PyTorch 1.6, no mapping of
      names to tensors, or would run code.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      pickled = [n for n in archive.namelist() if n.endswith('/data.pkl')]
      if len(pickled) != 1:
        raise InputError(
          f'{path}: must hold one data.pkl, holds {len(pickled)}.'
        )
      folder = pickled[0].removesuffix('data.pkl')
      with archive.open(pickled[0]) as file:
        found = _Unpickler(file, path, archive, folder).load()
  except zipfile.BadZipFile:
    raise InputError(
      f'{path}: must be a file of PyTorch 1.6 or later, or model.safetensors.'
    ) from None
  except (pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{path}: is damaged ({error}).') from None
  if not isinstance(found, dict) or not all(
    isinstance(v, np.ndarray) for v in found.values()
  ):
    raise InputError(f'{path}: must map names to tensors.')
  return found


class _Unpickler(pickle.Unpickler):
  """Makes NumPy arrays of tensors, and nothing else."""

  def __init__(self, file, path, archive, folder):
    super().__init__(file, encoding='utf-8')
    self._path = path
    self._archive = archive
    self._folder = folder

  def find_class(self, module, name):
    """Returns what stands for a global name."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch' and name in _STORAGES:
      return _STORAGES[name]
    if module == 'torch._utils' and name in _REBUILD:
      return _REBUILD[name]
    raise InputError(
      f'{self._path}: would run {module}.{name}; only tensors are read.'
    )

  def persistent_load(self, pid):
    """Returns the numbers of a storage."""
    kind, dtype, key = pid[:3]
    if kind != 'storage':
      raise pickle.UnpicklingError(f'{kind} is not known')
    content = self._archive.read(f'{self._folder}data/{key}')
    return np.frombuffer(content, np.dtype(dtype))


def _tensor(storage, offset, shape, strides, *unused):
  """Returns a view of a storage; strides are in numbers."""
  del unused
  size = storage.itemsize
  last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if all(shape) and not 0 <= offset + last < len(storage):
    raise pickle.UnpicklingError('a tensor is larger than its storage')
  return np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [s * size for s in strides], writeable=False
  )


def _parameter(data, *unused):
  """Returns the tensor of a parameter."""
  del unused
  return data


_REBUILD = {'_rebuild_tensor_v2': _tensor, '_rebuild_parameter': _parameter}
