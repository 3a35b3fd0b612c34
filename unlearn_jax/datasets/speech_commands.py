"""Speech Commands v0.02: 105,829 clips of 35 words by 2,618 speakers.

Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
arXiv:1804.03209. Read from the archive as downloaded, without unpacking it, or
from an unpacked folder; both give the same corpus.

| task | classes |
|---|---|
| 35 | all words |
| 12 | yes no up down left right on off stop go, `_unknown_`, `_silence_` |

In the task of 12 classes, each part of the official split has as many
recordings of `_unknown_` and of `_silence_` as it has of one of the ten words
on average, as in the paper's recipe. `_unknown_` is the other words' recordings
whose ids have the smallest hashes. `_silence_` is cut from the background
noise: of each noise file the first 80 % serve training, the next 10 %
validation and the last 10 % test, so the parts have no audio in common; within
its stretch the cuts are spaced evenly, and overlap where there are many.
"""

from collections.abc import Callable, Iterator
import functools
import hashlib
import os
import pathlib
import re
import tarfile
from typing import Any, NamedTuple
import zlib

import numpy as np

from unlearn_jax.datasets import audio_files
from unlearn_jax.datasets import audio_folder
from unlearn_jax.datasets import source
from unlearn_jax.datasets.source import Recording
from unlearn_jax.types import InputError

URL = 'http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz'
TEN_WORDS = tuple('yes no up down left right on off stop go'.split())
UNKNOWN, SILENCE, NOISE = '_unknown_', '_silence_', '_background_noise_'

_ARCHIVE = 'speech_commands_v0.02.tar.gz'
_LISTS = {
  'validation_list.txt': source.VALIDATION,
  'testing_list.txt': source.TEST,
}
_LAYOUT = (
  f'{_ARCHIVE} or, unpacked, <word>/<speaker>_nohash_<take>.wav with '
  f'{" and ".join(_LISTS)}'
)
_PATTERN = re.compile(r'([^/_][^/]*)/([0-9a-f]+)_nohash_\d+\.wav')
_SPLITS = (source.TRAINING, source.VALIDATION, source.TEST)
_STRETCHES = (0.0, 0.8, 0.9, 1.0)  # Of a noise file, for each split.


class _Clip(NamedTuple):
  keyword: str
  speaker: str
  official_split: int


class SpeechCommands(source.Source):
  """Speech Commands, as a task of 35 or 12 classes."""

  NAME = 'speech_commands'
  DOWNLOADS = {
    URL: (
      2_428_923_189,
      'af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58',
    )
  }

  def __init__(self, data_dir: str | os.PathLike | None, task: str = '35'):
    """Looks what there is.

    Args:
      data_dir: folder that holds the archive, or the archive, or the unpacked
        folder; None downloads the archive.
      task: '35' or '12'.

    Raises:
      InputError: if there is no such folder or it is laid out otherwise.
    """
    self.config = task
    self._place: pathlib.Path | None = None
    self._listing: Any = URL
    if data_dir:
      place = audio_folder.check_data_dir(data_dir, self.NAME, _LAYOUT)
      if (place / _ARCHIVE).is_file():
        place /= _ARCHIVE
      self._place, self._listing = place, _list(place)

  def key(self) -> Any:
    """Returns the task and the listing of the files."""
    return [self.config, self._listing]

  def recordings(
    self, download: source.Download
  ) -> tuple[int, Iterator[Recording]]:
    """Returns the recordings, in the order in which they are stored."""
    place = self._place or download(URL)
    clips, noise = _read_labels(place)
    cuts: list[Recording] = []
    if self.config == '12':
      sizes = _class_sizes(clips, place)
      clips = _with_unknown(clips, sizes)
      cuts = _silence(noise, sizes, place)
    return len(clips) + len(cuts), _recordings(place, clips, cuts)


def _list(place: pathlib.Path) -> Any:
  """Lists the files of a folder, or the archive."""
  if place.is_dir():
    return audio_folder.list_files(place, ('.wav', *_LISTS))
  stat = place.stat()
  return audio_folder.File(place.name, stat.st_size, stat.st_mtime_ns)


def _files(
  place: pathlib.Path, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
  """Yields the path of each file of a folder or an archive, and its reader.

  Args:
    place: the folder or the archive.
    wanted: tells by the path which files may be read.

  Raises:
    InputError: if the archive is damaged.
  """
  if place.is_dir():
    for file in _list(place):
      yield file.path, (place / file.path).read_bytes
    return
  try:
    with tarfile.open(place, 'r|*') as archive:
      for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # It keeps all.
        path = member.name.removeprefix('./')
        content = archive.extractfile(member)
        if content is not None:  # Not a folder.
          data = content.read() if wanted(path) else b''
          yield path, functools.partial(bytes, data)
  except (tarfile.TarError, EOFError, zlib.error) as error:
    raise InputError(
      f'--data_dir: {place} is no archive, or is damaged ({error}); must hold '
      f'{_LAYOUT}.'
    ) from error


def _read_labels(
  place: pathlib.Path,
) -> tuple[dict[str, _Clip], dict[str, bytes]]:
  """Returns the clips by path and the contents of the noise files by name."""
  paths, lists, noise = [], {}, {}
  for path, read in _files(place, lambda path: not _PATTERN.fullmatch(path)):
    folder, _, name = path.rpartition('/')
    if path in _LISTS:
      lists[path] = read().decode(errors='replace').split()
    elif folder == NOISE and name.endswith('.wav'):
      noise[name] = read()
    else:
      paths.append(path)
  split = {
    path: split
    for name, split in _LISTS.items()
    for path in lists.get(name, ())
  }
  clips = {
    path: _Clip(match[1], match[2], split.get(path, source.TRAINING))
    for path in paths
    if (match := _PATTERN.fullmatch(path))
  }
  if len(lists) < len(_LISTS) or not clips:
    raise InputError(f'--data_dir={place}: must hold {_LAYOUT}.')
  return clips, noise


def _recordings(
  place: pathlib.Path, clips: dict[str, _Clip], cuts: list[Recording]
) -> Iterator[Recording]:
  for path, read in _files(place, clips.__contains__):
    if path in clips:
      yield Recording(
        utterance_id=audio_folder.utterance_id(path),
        keyword=clips[path].keyword,
        speaker=clips[path].speaker,
        read=functools.partial(_read_clip, read, f'{place}: {path}'),
        official_split=clips[path].official_split,
      )
  yield from cuts


def _read_clip(read: Callable[[], bytes], name: str) -> np.ndarray:
  return audio_files.fit(audio_files.decode(read(), name))


def _class_sizes(
  clips: dict[str, _Clip], place: pathlib.Path
) -> dict[int, int]:
  """Returns the mean size of the ten classes in each split."""
  words = {clip.keyword for clip in clips.values()}
  if missing := [word for word in TEN_WORDS if word not in words]:
    raise InputError(
      f'--data_dir={place}: must hold the words of the task of 12 classes; '
      f'lacks {", ".join(missing)}.'
    )
  splits = [c.official_split for c in clips.values() if c.keyword in TEN_WORDS]
  return {s: round(splits.count(s) / len(TEN_WORDS)) for s in _SPLITS}


def _with_unknown(
  clips: dict[str, _Clip], sizes: dict[int, int]
) -> dict[str, _Clip]:
  """Keeps the ten words and draws the unknown class from the others."""
  chosen = {p: c for p, c in clips.items() if c.keyword in TEN_WORDS}
  for split, size in sizes.items():
    others = [
      path
      for path, clip in clips.items()
      if clip.official_split == split and clip.keyword not in TEN_WORDS
    ]
    others.sort(key=lambda path: hashlib.sha256(path.encode()).digest())
    for path in others[:size]:
      chosen[path] = clips[path]._replace(keyword=UNKNOWN)
  return chosen


def _silence(
  noise: dict[str, bytes], sizes: dict[int, int], place: pathlib.Path
) -> list[Recording]:
  """Cuts the silence class from the noise files, in equal shares."""
  num_samples = audio_files.NUM_SAMPLES
  cuts = []
  audio = {
    name: audio_files.decode(data, f'{place}: {NOISE}/{name}')
    for name, data in sorted(noise.items())
  }
  # Each stretch, of a tenth or more, must hold a cut.
  audio = {k: v for k, v in audio.items() if len(v) >= 11 * num_samples}
  if not audio:
    raise InputError(
      f'--data_dir={place}: must hold {NOISE}/*.wav of 11 s or more for the '
      'task of 12 classes.'
    )
  for split in _SPLITS:
    for i, (name, samples) in enumerate(audio.items()):
      begin, end = (
        int(len(samples) * x) for x in _STRETCHES[split : split + 2]
      )
      count = len(range(i, sizes[split], len(audio)))
      starts = np.linspace(begin, end - num_samples, count).astype(int)
      for start in np.unique(starts).tolist():
        cut = samples[start : start + num_samples]
        cuts.append(
          Recording(
            utterance_id=f'{SILENCE}/{name.removesuffix(".wav")}_{start:08}',
            keyword=SILENCE,
            speaker=NOISE,
            read=functools.partial(np.copy, cut),
            official_split=split,
          )
        )
  return cuts
