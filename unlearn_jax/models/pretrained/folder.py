"""Folders in Hugging Face format: read, and written so that others read them.

A folder holds `config.json`, weights in `model.safetensors` or, older, in
`pytorch_model.bin`, either of them in shards with an index, and
`preprocessor_config.json`, which says what the model wants to hear.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained import torch_file
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.types import InputError, Params

_CONFIG, _PREPROCESSOR = 'config.json', 'preprocessor_config.json'
_SAFETENSORS, _PICKLED = 'model.safetensors', 'pytorch_model.bin'
_SHOWN = 10  # Names in a list of what is missing.
_CLASSES = {
  'wav2vec2': 'Wav2Vec2ForSequenceClassification',
  'hubert': 'HubertForSequenceClassification',
  'whisper': 'WhisperForAudioClassification',
}
# Weight norm, as it was called before PyTorch 2.
_OLD_NAMES = (
  ('parametrizations.weight.original0', 'weight_g'),
  ('parametrizations.weight.original1', 'weight_v'),
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A folder as read.

  Attributes:
    source: folder or name.
    network: its sizes.
    params: of encoder and head, NumPy float32.
    has_head: the head was read too; else it is fresh.
    config: content of `config.json`.
    preprocessor: content of `preprocessor_config.json`; {} where there is none.
  """

  source: str
  network: Network
  params: Params
  has_head: bool
  config: Mapping[str, Any]
  preprocessor: Mapping[str, Any]


def locate(name: str) -> pathlib.Path:
  """Returns a local folder, or that to which a hub's was downloaded.

  Args:
    name: a folder, or a name such as 'facebook/hubert-base-ls960'.

  Raises:
    InputError: if there is neither such a folder nor such a name.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    return path
  if path.exists() or name.count('/') > 1 or name.startswith(('.', '/', '~')):
    raise InputError(f'{name}: must be a folder with a {_CONFIG}.')
  import huggingface_hub

  try:
    found = huggingface_hub.snapshot_download(
      name, allow_patterns=['*.json', '*.safetensors', f'{_PICKLED[:-4]}*.bin']
    )
  except Exception as error:  # A hub fails in many ways; all are the user's.
    first = str(error).strip().split('\n')[0]
    raise InputError(
      f'{name}: must be a folder or a name on the hub: {first}'
    ) from None
  return pathlib.Path(found)


def read(
  name: str, *, class_names: Sequence[str] | None = None, seed: int = 0
) -> Pretrained:
  """Reads a model.

  Args:
    name: as `locate` takes it.
    class_names: of the task; a head that was read must have as many. Where it
      has the same in another order, its outputs are put in this one; where they
      are called otherwise, they stay as they are. None takes those of the
      folder.
    seed: of a fresh head, where the folder has an encoder alone.

  Raises:
    InputError: if config or weights are missing, the architecture is not one
      that is built here, tensors are missing or not expected, or the head has
      another number of classes.
  """
  folder = locate(name)
  config = _json(folder / _CONFIG)
  network = Network.read(str(folder / _CONFIG), config)
  readers = _weights(folder)
  stems = {_stem(n, network.kind) for n in readers}
  has_head = 'classifier.weight' in stems
  if has_head and class_names is not None:
    counts = len(network.class_names), len(class_names)
    if counts[0] != counts[1]:
      raise InputError(
        f'{name}: has {counts[0]} classes, the corpus has {counts[1]}; they '
        'must be as many.'
      )
  theirs = network.class_names
  if class_names is not None and not (
    has_head and set(theirs) != set(class_names)
  ):
    network = dataclasses.replace(network, class_names=tuple(class_names))
  tensors = network.tensors()
  if not has_head:
    fresh = network.head_tensors()
    tensors = [t for t in tensors if t not in fresh]
  params = _read_params(str(folder), tensors, readers, has_head, network)
  if not has_head:
    params |= jax.device_get(network.init_head(jax.random.key(seed)))
  elif theirs != network.class_names:
    order = [theirs.index(known) for known in network.class_names]
    head = params['classifier']
    params['classifier'] = {k: leaf[..., order] for k, leaf in head.items()}
  preprocessor = folder / _PREPROCESSOR
  return Pretrained(
    name,
    network,
    params,
    has_head,
    config,
    _json(preprocessor) if preprocessor.exists() else {},
  )


def _read_params(source, tensors, readers, has_head, network):
  """Reads what is expected; says what is missing and what else there is."""
  by_stem = {_stem(n, network.kind): n for n in readers}
  expected = {
    _stem(n, network.kind): shape
    for n, shape in tensors_lib.shapes(tensors).items()
  }
  missing = [n for n in expected if n not in by_stem]
  # A model that was trained for something else has heads of its own.
  roots = {n.split('.')[0] for n in expected}
  surplus = [
    n
    for stem, n in by_stem.items()
    if stem not in expected and (has_head or stem.split('.')[0] in roots)
  ]
  for what, found in (('misses', missing), ('has unexpected', surplus)):
    if found:
      more = f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
      listed = ', '.join(found[:_SHOWN])
      raise InputError(f'{source}: {what} tensors: {listed}{more}.')

  def array(name):
    stem = _stem(name, network.kind)
    found = readers[by_stem[stem]](by_stem[stem])
    if found.shape != expected[stem]:
      raise InputError(
        f'{source}: {by_stem[stem]} must have shape {expected[stem]} by '
        f'{_CONFIG}, got {found.shape}.'
      )
    return found.astype(np.float32)

  return tensors_lib.to_params(tensors, array)


def _stem(name, kind):
  """Returns a tensor's name without what depends on the class that saved it."""
  for new, old in _OLD_NAMES:
    name = name.replace(f'conv.{old}', f'conv.{new}')
  return name.removeprefix('model.').removeprefix(f'{kind}.')


def _weights(
  folder: pathlib.Path,
) -> dict[str, Callable[[str], np.ndarray]]:
  """Returns what reads a tensor by its name, for the names of all."""
  for name in (_SAFETENSORS, _PICKLED):
    index = folder / f'{name}.index.json'
    if index.exists():
      of_name = _json(index).get('weight_map')
      if not isinstance(of_name, dict):
        raise InputError(f'{index}: must have a weight_map.')
    elif (folder / name).exists():
      of_name = None
    else:
      continue
    files = sorted(set(of_name.values())) if of_name else [name]
    readers = {n: reader for reader, n in _open(folder, files)}
    if of_name and (lost := [n for n in of_name if n not in readers]):
      raise InputError(f'{index}: {lost[0]} is in no file.')
    return readers
  raise InputError(
    f'{folder}: must hold weights, {_SAFETENSORS} or {_PICKLED}.'
  )


def _open(folder, files):
  """Yields a function that reads a tensor, with each name, of all files."""
  for file in files:
    path = folder / file
    if path.parent != folder or not path.exists():
      raise InputError(f'{path}: is missing, and an index names it.')
    if path.suffix == '.bin':
      tensors = torch_file.read(path)
      yield from ((tensors.__getitem__, name) for name in tensors)
    else:
      import safetensors

      try:
        opened = safetensors.safe_open(path, framework='numpy')
      except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f'{path}: is damaged ({error}).') from None
      yield from ((opened.get_tensor, name) for name in opened.keys())


def _json(path):
  """Returns a mapping."""
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    raise InputError(f'{path}: is missing.') from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise InputError(f'{path}: must be JSON ({error}).') from None
  if not isinstance(found, dict):
    raise InputError(f'{path}: must be a mapping.')
  return found


def check_absent(folder: pathlib.Path, *, overwrite: bool) -> None:
  """Raises an InputError if a folder exists and is not to be overwritten."""
  if folder.exists() and not overwrite:
    raise InputError(f'{folder}: exists; give --overwrite to replace it.')


def write(
  folder: pathlib.Path,
  pretrained: Pretrained,
  params: Params,
  *,
  overwrite: bool = False,
) -> None:
  """Writes a folder that `transformers` opens, in float32.

  It appears whole or not at all.

  Args:
    folder: to make.
    pretrained: what the model came from.
    params: of encoder and head, or of the encoder alone.
    overwrite: put it in the place of one that exists.

  Raises:
    InputError: if it exists, and is not to be overwritten.
  """
  import safetensors.numpy

  check_absent(folder, overwrite=overwrite)
  network = pretrained.network
  names = network.class_names
  # An encoder alone is of no class that says what it is for.
  has_head = 'classifier' in params
  config = dict(pretrained.config) | {
    'architectures': [_CLASSES[network.kind]] if has_head else [],
    'dtype': 'float32',
    'id2label': {str(i): name for i, name in enumerate(names)},
    'label2id': {name: i for i, name in enumerate(names)},
  }
  config.pop('torch_dtype', None)
  config.pop('num_labels', None)
  temporary = folder.with_name(f'.{folder.name}.tmp')
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  tensors = [t for t in network.tensors() if t.path[0] in params]
  arrays = tensors_lib.from_params(tensors, params)
  safetensors.numpy.save_file(
    arrays, temporary / _SAFETENSORS, metadata={'format': 'pt'}
  )
  contents = {_CONFIG: config, _PREPROCESSOR: pretrained.preprocessor}
  for name, content in contents.items():
    if content:
      text = json.dumps(content, indent=2, sort_keys=True)
      (temporary / name).write_text(f'{text}\n')
  if folder.exists():
    shutil.rmtree(folder)
  temporary.rename(folder)
