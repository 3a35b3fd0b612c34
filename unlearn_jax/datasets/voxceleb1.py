"""VoxCeleb1: 153,516 utterances of 1,251 speakers, from 22,496 videos.

Nagrani, Chung and Zisserman, "VoxCeleb: a large-scale speaker identification
dataset", Interspeech 2017, arXiv:1706.08612. Access is by request, so nothing
is downloaded. `--data_dir` names a folder with

    iden_split.txt             the official split, for identification
    wav/idNNNNN/VIDEO/NNNNN.wav

or with the archives of the release in the place of `wav/`, which are read
without unpacking them:

    vox1_dev_wav.zip           or vox1_dev_wav_partaa, -ab, -ac and -ad
    vox1_test_wav.zip

Where there is a folder `wav`, the archives are not read. `iden_split.txt` says
what belongs to the corpus: a wav file that it does not list is left out with a
warning, and one that it lists and that is missing is an error, or left out
where `--skip_bad_audio` is given.

An utterance lasts 4 to 145 s and is kept whole; its session is the video.
"""

from collections import Counter
from collections.abc import Iterator
import contextlib
import functools
import io
import os
import pathlib
import re
from typing import Any, NamedTuple
import zipfile
import zlib

from absl import logging
import numpy as np

from unlearn_jax.datasets import audio_files
from unlearn_jax.datasets import audio_folder
from unlearn_jax.datasets import source
from unlearn_jax.datasets.concatenated import ConcatenatedFiles
from unlearn_jax.datasets.source import Recording
from unlearn_jax.types import InputError

KEYWORD = 'speech'  # Nothing is said of the words.
IDEN_SPLIT = 'iden_split.txt'
ARCHIVES = ('vox1_dev_wav.zip', 'vox1_test_wav.zip')
PARTS = tuple(f'vox1_dev_wav_parta{letter}' for letter in 'abcd')

_WAV = 'wav/'
_LAYOUT = (
  f'{IDEN_SPLIT} and wav/idNNNNN/VIDEO/NNNNN.wav, or {" and ".join(ARCHIVES)} '
  f'(the first may be in its parts {PARTS[0]} to {PARTS[-1]})'
)
_PATTERN = re.compile(r'(?P<speaker>id\d{5})/(?P<session>[^/\s]+)/\d{5}\.wav')
_LINE = re.compile(rf'(?P<split>[123])\s+(?P<path>{_PATTERN.pattern})')
_SPLITS = {'1': source.TRAINING, '2': source.VALIDATION, '3': source.TEST}


class _Utterance(NamedTuple):
  speaker: str
  session: str
  official_split: int


class VoxCeleb1(source.Source):
  """Whole utterances; the official split is that for identification."""

  NAME = 'voxceleb1'
  NUM_SAMPLES = None

  def __init__(self, data_dir: str | os.PathLike | None):
    """Looks what there is.

    Raises:
      InputError: if there is no such folder or it lacks a file.
    """
    root = audio_folder.check_data_dir(data_dir, self.NAME, _LAYOUT)
    self._root = root
    self._files: list[audio_folder.File] = []  # Unpacked.
    self._archives: list[tuple[pathlib.Path, ...]] = []  # Each in its parts.
    if (root / _WAV).is_dir():
      self._files = audio_folder.list_files(root / _WAV, ('.wav',))
    else:
      self._archives = _find_archives(root)
    if not self._files and not self._archives:
      raise InputError(
        f'--data_dir={data_dir}: must hold {_LAYOUT}; has no wav file and no '
        'archive.'
      )
    if not (root / IDEN_SPLIT).is_file():
      raise InputError(
        f'--data_dir={data_dir}: must hold {IDEN_SPLIT}, which is downloaded '
        'with the corpus.'
      )

  def key(self) -> Any:
    """Returns the listing of the files, or of the archives."""
    listed = [self._root / IDEN_SPLIT]
    listed += [part for archive in self._archives for part in archive]
    stats = [(path.name, path.stat()) for path in listed]
    return [
      *self._files,
      *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats),
    ]

  def check(self) -> None:
    """Raises InputError if files that `iden_split.txt` lists are missing."""
    utterances, present = self._utterances, self._present
    missing = [path for path in utterances if path not in present]
    if not missing:
      return
    there = {utterances[path].speaker for path in utterances.keys() & present}
    lost = Counter(utterances[path].speaker for path in missing)
    speakers = sorted(lost.keys() - there)
    names = f', such as {_some(speakers)}' if speakers else ''
    raise InputError(
      f'--data_dir={self._root}: {len(missing)} of the {len(utterances)} files '
      f'that {IDEN_SPLIT} lists are missing, such as {_some(missing)}; '
      f'speakers who are wholly missing: {len(speakers)}{names}.'
    )

  def recordings(
    self, download: source.Download
  ) -> tuple[int, Iterator[Recording]]:
    """Returns the recordings, in the order in which they are stored."""
    del download
    unlisted = sorted(self._present - self._utterances.keys())
    if unlisted:
      logging.warning(
        '%s: %d wav files are not in %s and are left out, such as %s.',
        self.NAME,
        len(unlisted),
        IDEN_SPLIT,
        _some(unlisted),
      )
    return len(self._utterances), self._recordings()

  @functools.cached_property
  def _utterances(self) -> dict[str, _Utterance]:
    return read_iden_split(self._root / IDEN_SPLIT)

  @functools.cached_property
  def _present(self) -> set[str]:
    paths = {file.path for file in self._files}
    for parts in self._archives:
      with _open_archive(parts) as archive:
        paths.update(path for path, _ in _members(archive))
    return paths

  def _recordings(self) -> Iterator[Recording]:
    for file in self._files:
      place = self._root / _WAV / file.path
      read = functools.partial(audio_files.read_utterance, place)
      if file.path in self._utterances:
        yield self._recording(file.path, read)
    for parts in self._archives:
      with _open_archive(parts) as archive:
        for path, member in _members(archive):
          if path in self._utterances:
            name = f'{parts[0]}: {member.filename}'
            read = functools.partial(_read_member, archive, member, name)
            yield self._recording(path, read)
    for path in sorted(self._utterances.keys() - self._present):
      yield self._recording(path, functools.partial(_missing, path))

  def _recording(self, path, read) -> Recording:
    utterance = self._utterances[path]
    return Recording(
      utterance_id=audio_folder.utterance_id(path),
      keyword=KEYWORD,
      speaker=utterance.speaker,
      read=read,
      official_split=utterance.official_split,
      session=utterance.session,
    )


def read_iden_split(path: pathlib.Path) -> dict[str, _Utterance]:
  """Reads the official split, by the paths of the utterances.

  Raises:
    InputError: if a line is malformed or a path comes twice.
  """
  utterances: dict[str, _Utterance] = {}
  lines = path.read_text('utf-8', errors='replace').splitlines()
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    match = _LINE.fullmatch(line.strip())
    if not match:
      raise InputError(
        f'{path}: line {number} must be such as "1 id10003/na8-QEFmj44/'
        '00003.wav", of 1 for training, 2 for validation or 3 for test, got '
        f'{line.strip()[:80]!r}.'
      )
    if match['path'] in utterances:
      raise InputError(f'{path}: line {number} repeats {match["path"]}.')
    utterances[match['path']] = _Utterance(
      match['speaker'], match['session'], _SPLITS[match['split']]
    )
  if not utterances:
    raise InputError(f'{path}: must list the utterances; has no line.')
  return utterances


def _find_archives(root: pathlib.Path) -> list[tuple[pathlib.Path, ...]]:
  """Returns the archives that there are, each as the files it consists of."""
  archives: list[tuple[pathlib.Path, ...]] = [
    (root / name,) for name in ARCHIVES if (root / name).is_file()
  ]
  parts = tuple(root / name for name in PARTS)
  absent = [part.name for part in parts if not part.is_file()]
  if (root / ARCHIVES[0]).is_file() or len(absent) == len(parts):
    return archives
  if absent:
    raise InputError(
      f'--data_dir={root}: must hold all {len(parts)} parts of {ARCHIVES[0]}; '
      f'lacks {", ".join(absent)}.'
    )
  return [parts, *archives]


@contextlib.contextmanager
def _open_archive(
  parts: tuple[pathlib.Path, ...],
) -> Iterator[zipfile.ZipFile]:
  with contextlib.ExitStack() as stack:
    try:
      file = io.BufferedReader(ConcatenatedFiles(parts))
      stack.callback(file.close)
      archive = stack.enter_context(zipfile.ZipFile(file))
    except (zipfile.BadZipFile, OSError) as error:
      names = ' + '.join([str(parts[0]), *(part.name for part in parts[1:])])
      raise InputError(
        f'--data_dir: {names} is no archive, or is damaged ({error}); must be '
        'as downloaded.'
      ) from error
    yield archive


def _members(
  archive: zipfile.ZipFile,
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
  """Yields the wav files of an archive in the order of their bytes."""
  for member in sorted(archive.infolist(), key=lambda x: x.header_offset):
    if member.filename.startswith(_WAV) and member.filename.endswith('.wav'):
      yield member.filename.removeprefix(_WAV), member


def _read_member(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> np.ndarray:
  try:
    data = archive.read(member)
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    raise InputError(f'{name}: is damaged ({error}).') from error
  return audio_files.decode_utterance(data, name)


def _missing(path: str) -> np.ndarray:
  raise InputError(f'{path}: is listed in {IDEN_SPLIT} and is missing.')


def _some(names: list[str]) -> str:
  """Names the first three."""
  return ', '.join(names[:3])
