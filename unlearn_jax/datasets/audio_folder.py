"""Corpora that are trees of audio files, with the labels in their names."""

from collections.abc import Iterator
import functools
import os
import pathlib
import re
from typing import Any, ClassVar, NamedTuple

from absl import logging
import numpy as np

from unlearn_jax.datasets import audio_files
from unlearn_jax.datasets.source import Download
from unlearn_jax.datasets.source import Recording
from unlearn_jax.datasets.source import Source
from unlearn_jax.types import InputError

UNKNOWN_SPEAKER = 'unknown'
_GROUPS = {'keyword', 'speaker', 'session', 'take'}


class File(NamedTuple):
  """A file of a tree, by its path relative to the root, with `/`."""

  path: str
  num_bytes: int
  mtime_ns: int


def list_files(root: pathlib.Path, suffixes: tuple[str, ...]) -> list[File]:
  """Lists the files with one of `suffixes`, sorted; hidden ones are left out.

  Raises:
    InputError: if the folder or a link in it leads nowhere or in a circle, or
      cannot be read.
  """
  files = []

  def scan(folder, prefix):
    with os.scandir(folder) as entries:
      for entry in entries:
        if entry.name.startswith('.'):
          continue
        path = prefix + entry.name
        if entry.is_dir():
          scan(entry.path, f'{path}/')
        elif path.lower().endswith(suffixes):
          stat = entry.stat()
          files.append(File(path, stat.st_size, stat.st_mtime_ns))

  try:
    scan(root, '')
    '\n'.join(file.path for file in files).encode()
  except OSError as error:
    raise InputError(
      f'--data_dir: {error.filename} cannot be read ({error.strerror}).'
    ) from error
  except UnicodeEncodeError as error:
    raise InputError(
      f'--data_dir={root}: names of files must be UTF-8.'
    ) from error
  return sorted(files)


def check_data_dir(
  data_dir: str | os.PathLike | None, name: str, layout: str
) -> pathlib.Path:
  """Returns the folder of a corpus as a path.

  Raises:
    InputError: if there is none.
  """
  if not data_dir:
    raise InputError(
      f'--data_dir is needed for {name}: must name the folder with {layout}.'
    )
  path = pathlib.Path(data_dir).expanduser()
  if not path.exists():
    raise InputError(
      f'--data_dir={data_dir}: does not exist; must hold {layout}.'
    )
  return path


def utterance_id(path: str) -> str:
  """Returns the path of a file without the extension."""
  return path.rpartition('.')[0]


def check_unique(paths: list[str], where: str | os.PathLike) -> None:
  """Raises InputError where two files differ in nothing but the extension."""
  seen: dict[str, str] = {}
  for path in paths:
    other = seen.setdefault(utterance_id(path), path)
    if other != path:
      raise InputError(
        f'--data_dir={where}: {other} and {path} are one utterance; must be '
        'one file.'
      )


class LabelledFolder(Source):
  """A tree of audio files and a regular expression for their paths.

  Attributes:
    PATTERN: matches the whole path, relative to the folder, with `/` between
      folders and with the extension; its groups are `keyword`, `speaker`,
      `session` and `take`. A take is a session where there is no other. Files
      that it does not match are counted and left out.
    LAYOUT: what the pattern means, for messages.
    SUBFOLDER: where the files lie in the corpus as downloaded; the subfolder
      itself is as good as the corpus.
  """

  PATTERN: ClassVar[str]
  LAYOUT: ClassVar[str]
  SUBFOLDER: ClassVar[str | None] = None

  def __init__(self, data_dir: str | os.PathLike | None):
    """Lists the files.

    Raises:
      InputError: if there is no such folder or it is laid out otherwise.
    """
    self._scan(data_dir, re.compile(self.PATTERN))

  def _scan(self, data_dir, pattern):
    root = check_data_dir(data_dir, self.NAME, self.LAYOUT)
    if self.SUBFOLDER and (root / self.SUBFOLDER).is_dir():
      root /= self.SUBFOLDER
    files = list_files(root, audio_files.SUFFIXES)
    if not files:
      raise InputError(
        f'--data_dir={data_dir}: must hold {self.LAYOUT}; has no audio file.'
      )
    self._root, self._pattern = root, pattern
    self._matches = [
      (file, match)
      for file in files
      if (match := pattern.fullmatch(file.path)) and match['keyword']
    ]
    self._num_files = len(files)
    if not self._matches:
      raise InputError(self._mismatch(files[0].path))
    check_unique([file.path for file, _ in self._matches], root)

  def _mismatch(self, example):
    return (
      f'--data_dir={self._root}: must hold {self.LAYOUT}; none of '
      f'{self._num_files} audio files is named so, for instance {example}.'
    )

  def official_split(self, match: re.Match[str]) -> int | None:
    """Returns the official split of a file, by its path."""
    del match
    return None

  def read_file(self, path: pathlib.Path) -> np.ndarray:
    """Returns the audio of a file, int16 [NUM_SAMPLES]."""
    return audio_files.read_clip(path)

  def key(self) -> Any:
    """Returns the pattern and the listing of the files."""
    return [self._pattern.pattern, [file for file, _ in self._matches]]

  def recordings(self, download: Download) -> tuple[int, Iterator[Recording]]:
    """Returns the recordings, sorted by path."""
    del download
    num_matches = len(self._matches)
    if num_matches < self._num_files:
      logging.warning(
        '%s: %d of %d audio files in %s do not match %s and are left out.',
        self.NAME,
        self._num_files - num_matches,
        self._num_files,
        self._root,
        self._pattern.pattern,
      )
    return num_matches, self._recordings()

  def _recordings(self):
    for file, match in self._matches:
      groups = match.groupdict()
      yield Recording(
        utterance_id=utterance_id(file.path),
        keyword=match['keyword'],
        speaker=groups.get('speaker') or UNKNOWN_SPEAKER,
        read=functools.partial(self.read_file, self._root / file.path),
        official_split=self.official_split(match),
        session=groups.get('session') or groups.get('take') or '',
      )


class AudioFolder(LabelledFolder):
  """Any tree of audio files, with the user's pattern.

  Only `keyword` is needed: without a speaker, all recordings are by one who is
  unknown; without a session or a take, nothing is known of sessions.
  """

  NAME = 'audio_folder'
  LAYOUT = 'audio files: ' + ', '.join(audio_files.SUFFIXES)

  def __init__(self, data_dir: str | os.PathLike | None, pattern: str | None):
    """Lists the files.

    Raises:
      InputError: if the folder or the pattern is missing, the pattern is bad,
        or it matches none of the files.
    """
    self._scan(data_dir, _compile(pattern))

  def _mismatch(self, example):
    return (
      f'--audio_pattern={self._pattern.pattern}: must match whole paths in '
      f'--data_dir={self._root}; matches none of {self._num_files}, for '
      f'instance {example}.'
    )


class AudioFolderFull(AudioFolder):
  """The same with whole utterances instead of clips of one second."""

  NUM_SAMPLES = None
  config = 'full'

  def read_file(self, path: pathlib.Path) -> np.ndarray:
    """Returns the audio of a file, int16 [samples]."""
    return audio_files.read_utterance(path)


def _compile(pattern: str | None) -> re.Pattern[str]:
  """Compiles a pattern, or raises InputError where it is none."""
  example = r'(?P<keyword>[^/]+)/(?P<speaker>[^/]+)_(?P<take>\d+)\.wav'
  if not pattern:
    raise InputError(
      '--audio_pattern is needed for audio_folder: must be a regular '
      f'expression such as {example}'
    )
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise InputError(
      f'--audio_pattern={pattern}: is no regular expression ({error}).'
    ) from error
  groups = set(compiled.groupindex)
  if 'keyword' not in groups or groups - _GROUPS:
    raise InputError(
      f'--audio_pattern={pattern}: must have the named group keyword, may have '
      f'speaker, session and take, and no others; such as {example}'
    )
  return compiled
