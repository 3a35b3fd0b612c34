"""Prepared corpora on disk: where they lie, and their labels.

Labels are kept beside the recordings in a file of their own, written last: a
folder that has it is whole, and a corpus costs no audio before a row is read.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import operator
import os
import pathlib
from typing import Any
import zipfile
import zlib

from absl import logging
import numpy as np

from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.source import Recording
from unlearn_jax.datasets.source import Source

SPLIT = 'train'  # TFDS's name for "all of it".
_LABELS = 'labels.npz'
# Raised when the labels file or the decoding of audio files changes.
_FORMAT = 2


def folder_of(
  source: Source, cache_dir: pathlib.Path, *, skip_bad_audio: bool
) -> pathlib.Path:
  """Names the folder after all that its contents depend on."""
  key = [_FORMAT, skip_bad_audio, source.key()]
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
  # TFDS's own order: data_dir/name/config/version.
  config = f'{source.config}-{digest[:16]}'
  return cache_dir / source.NAME / config / source.VERSION


class Labels:
  """Gathers what is known of each recording, in the order of writing."""

  def __init__(self, *, lengths_vary: bool) -> None:
    """Starts with no recordings."""
    self._lengths_vary = lengths_vary
    self._lengths: list[int] = []
    self._rows: list[tuple[str, str, str, str, int | None, bytes]] = []
    self.left_out: list[str] = []

  def __len__(self) -> int:
    """Returns how many recordings there are."""
    return len(self._rows)

  def add(self, recording: Recording, audio: np.ndarray) -> None:
    """Adds a recording; its audio only counts in the fingerprint."""
    samples = audio.astype('<i2', copy=False).tobytes()
    digest = hashlib.blake2b(samples, digest_size=16).digest()
    self._lengths.append(len(audio))
    self._rows.append(
      (
        recording.utterance_id,
        recording.keyword,
        recording.speaker,
        recording.session,
        recording.official_split,
        digest,
      )
    )

  def write(self, folder: pathlib.Path) -> None:
    """Writes the labels, whole or not at all, in the order of the ids."""
    order = sorted(range(len(self)), key=lambda i: self._rows[i][0])
    rows = [self._rows[i] for i in order]
    ids, keywords, speakers, sessions, splits, _ = zip(*rows, strict=True)
    arrays: dict[str, Any] = {
      'utterance_id': np.array(ids),
      'record': np.array(order),
      'left_out': np.array(self.left_out, np.str_),
      'shards': np.array(_shards(folder)),
      'fingerprint': np.array(_fingerprint(rows)),
    }
    for name, values in (
      ('keyword', keywords),
      ('speaker', speakers),
      ('session', sessions),
    ):
      names, index = np.unique(values, return_inverse=True)
      arrays |= {f'{name}_names': names, name: index.astype(np.int32)}
    if self._lengths_vary:
      arrays['lengths'] = np.array(self._lengths, np.int64)[order]
    if None not in splits:
      arrays['official_split'] = np.array(splits, np.int8)
    partial = folder / f'{_LABELS}.partial'
    with open(partial, 'wb') as file:
      np.savez_compressed(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, folder / _LABELS)


def load(folder: pathlib.Path, name: str) -> Corpus | None:
  """Returns a prepared corpus, or None where there is no whole one.

  Args:
    folder: from `folder_of`.
    name: registry name of the corpus.
  """
  try:
    with open(folder / _LABELS, 'rb') as file:
      arrays = dict(np.load(file, allow_pickle=False))
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
    return None  # Absent or damaged.
  if list(arrays['shards']) != _shards(folder):
    return None
  if len(arrays['left_out']):
    count = len(arrays['left_out'])
    logging.warning('%s: bad recordings left out: %d.', name, count)
  length = {}
  if 'lengths' in arrays:
    length = {'num_samples': None, 'lengths': arrays['lengths']}
  return Corpus(
    name=name,
    source=_Recordings(folder, arrays['record']),
    utterance_id=arrays['utterance_id'],
    keyword=arrays['keyword'],
    speaker=arrays['speaker'],
    keywords=tuple(arrays['keyword_names'].tolist()),
    speakers=tuple(arrays['speaker_names'].tolist()),
    official_split=arrays.get('official_split'),
    fingerprint=str(arrays['fingerprint']),
    session=arrays['session'],
    sessions=tuple(arrays['session_names'].tolist()),
    **length,
  )


def left_out(folder: pathlib.Path) -> tuple[str, ...]:
  """Returns what is wrong with each file that was left out of a corpus."""
  with np.load(folder / _LABELS, allow_pickle=False) as file:
    return tuple(file['left_out'].tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class _Recordings(Sequence[dict[str, Any]]):
  """Random access by row, opened when first used."""

  folder: pathlib.Path
  record: np.ndarray  # [n], where each row was written.

  @functools.cached_property
  def _examples(self) -> Any:
    import tensorflow_datasets as tfds  # Labels alone do without.

    return tfds.builder_from_directory(self.folder).as_data_source(SPLIT)

  def __len__(self) -> int:
    return len(self.record)

  def __getitem__(self, row):
    return self._examples[int(self.record[operator.index(row)])]

  def __getitems__(self, rows: Sequence[int]) -> Sequence[dict[str, Any]]:
    return self._examples.__getitems__(self.record[list(rows)].tolist())


def _shards(folder: pathlib.Path) -> list[str]:
  """Lists the files of recordings with their sizes in bytes."""
  paths = sorted(folder.glob('*.array_record*'))
  return [f'{path.name} {path.stat().st_size}' for path in paths]


def _fingerprint(rows: Sequence[tuple]) -> str:
  """Hashes ids, labels and recordings, sorted by id."""
  fingerprint = hashlib.sha256()
  for *labels, digest in rows:
    fingerprint.update(json.dumps([*labels, digest.hex()]).encode())
  return fingerprint.hexdigest()
