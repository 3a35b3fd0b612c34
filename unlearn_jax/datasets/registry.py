"""Corpora by name.

To add one: a file with a `Source`, and a row here.
"""

from collections.abc import Mapping
import dataclasses
import importlib
import os
import pathlib
from typing import Any

from unlearn_jax.datasets import prepared
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.source import Source
from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class _Row:
  """Where the source of a corpus is, and how it is built.

  Attributes:
    module: in this folder; imported when the corpus is loaded.
    source: class in that module.
    flags: those of `data_dir` and `pattern` that the source takes.
    options: what else it takes.
  """

  module: str
  source: str
  flags: tuple[str, ...] = ('data_dir',)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_ROWS = {
  'espeak_commands': _Row('espeak_commands', 'EspeakCommands', ()),
  'espeak_commands/tiny': _Row(
    'espeak_commands', 'EspeakCommands', (), {'config': 'tiny'}
  ),
  'espeak_commands/speakers': _Row(
    'espeak_commands', 'EspeakCommands', (), {'config': 'speakers'}
  ),
  'arabic_speech_commands': _Row(
    'arabic_speech_commands', 'ArabicSpeechCommands'
  ),
  'free_spoken_digits': _Row('free_spoken_digits', 'FreeSpokenDigits'),
  'free_spoken_digits/30_takes': _Row(
    'free_spoken_digits', 'FreeSpokenDigits', options={'config': '30_takes'}
  ),
  'speech_commands': _Row('speech_commands', 'SpeechCommands'),
  'speech_commands/12': _Row(
    'speech_commands', 'SpeechCommands', options={'task': '12'}
  ),
  'voxceleb1': _Row('voxceleb1', 'VoxCeleb1'),
  'audio_folder': _Row('audio_folder', 'AudioFolder', ('data_dir', 'pattern')),
  'audio_folder/full': _Row(
    'audio_folder', 'AudioFolderFull', ('data_dir', 'pattern')
  ),
}
# Corpora without sound, which are not prepared: modules with a function `load`.
_PLAIN = ('digit_images',)


def names() -> tuple[str, ...]:
  """Returns the names of all corpora."""
  return (*_ROWS, *_PLAIN)


def load(
  name: str,
  *,
  cache_dir: str | os.PathLike,
  data_dir: str | os.PathLike | None = None,
  skip_bad_audio: bool = False,
  pattern: str | None = None,
  progress: bool = True,
) -> Corpus:
  """Returns a corpus, which is prepared only once.

  It is prepared anew when its files have changed (by name, size or time).

  Args:
    name: one of `names()`.
    cache_dir: folder for what is prepared and downloaded.
    data_dir: folder of the recordings. `espeak_commands` needs none;
      `speech_commands` is downloaded where it is None.
    skip_bad_audio: leave out damaged recordings instead of raising.
    pattern: for `audio_folder`, see `audio_folder.AudioFolder`.
    progress: show progress bars.

  Raises:
    InputError: if the name is unknown, a folder or the pattern is missing or
      does not fit, or a recording is damaged.
  """
  if name in _PLAIN:
    _refuse(name, (), {'data_dir': data_dir, 'pattern': pattern})
    return _import(name, name).load()
  source = _source(name, data_dir, pattern)
  cache_dir = pathlib.Path(cache_dir).expanduser()
  # Where nothing was bad, nothing would be left out.
  for skip in (False, True) if skip_bad_audio else (False,):
    folder = prepared.folder_of(source, cache_dir, skip_bad_audio=skip)
    corpus = prepared.load(folder, name)
    if corpus is not None:
      return corpus
  try:
    cache_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'--cache_dir={cache_dir}: must be a folder that can be written '
      f'({error.strerror}).'
    ) from error
  # Imported here because labels alone need no TFDS.
  _import('builder', name).prepare(
    source, cache_dir, skip_bad_audio=skip_bad_audio, progress=progress
  )
  corpus = prepared.load(folder, name)
  assert corpus is not None
  return corpus


def _source(
  name: str, data_dir: str | os.PathLike | None, pattern: str | None
) -> Source:
  """Builds the source of a corpus, of the flags that it takes."""
  if name not in _ROWS:
    raise InputError(f'--dataset={name}: must be one of {", ".join(names())}.')
  row = _ROWS[name]
  flags = {'data_dir': data_dir, 'pattern': pattern}
  _refuse(name, row.flags, flags)
  taken = {flag: flags[flag] for flag in row.flags}
  make = getattr(_import(row.module, name), row.source)
  return make(**taken, **row.options)


def _refuse(name, taken, flags):
  """Raises an InputError where a flag is given that a corpus does not take."""
  for flag, value in flags.items():
    if value and flag not in taken:
      flag_name = {'pattern': 'audio_pattern'}.get(flag, flag)
      raise InputError(
        f'--{flag_name}={value}: must not be given with --dataset={name}, '
        'which does not read it.'
      )


def _import(module: str, name: str) -> Any:
  """Imports a module of this folder, for the corpus `name`."""
  try:
    return importlib.import_module(f'unlearn_jax.datasets.{module}')
  except ImportError as error:
    raise InputError(
      f'--dataset={name}: needs the package {error.name}; pip install '
      'unlearn_jax[audio,synthetic]'
    ) from error
