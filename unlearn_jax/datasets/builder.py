"""Prepares corpora with TensorFlow Datasets, without TensorFlow.

Each corpus gets a TFDS builder of its own name, whose records lie in
ArrayRecord files. It is a builder by shards, because they are written as they
come: the other kind, `GeneratorBasedBuilder`, holds up to 1 GB of examples in
memory and needs TensorFlow beyond that.
"""

from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import functools
import io
import itertools
import pathlib
import shutil
from typing import Any
import urllib.error
import urllib.request

from absl import logging
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
import tqdm

from unlearn_jax.datasets import prepared
from unlearn_jax.datasets.source import Recording
from unlearn_jax.datasets.source import Source
from unlearn_jax.types import InputError

# Of each file of records; so many are in memory at a time: 32 kB each, or, of
# varying length, some 130 to 640 kB (4 to 20 s).
_EXAMPLES_PER_SHARD = 2_000
_UTTERANCES_PER_SHARD = 200
_MAX_WARNINGS = 100  # The labels list all that was left out.

_Example = tuple[int, dict[str, Any]]


class CorpusBuilder(tfds.core.ShardBasedBuilder):
  """Writes the recordings of a source; subclasses come from `builder_class`."""

  def __init__(
    self, source: Source, *, skip_bad_audio: bool, progress: bool, **kwargs
  ):
    """Prepares nothing yet.

    Args:
      source: what to write.
      skip_bad_audio: leave out damaged recordings instead of raising.
      progress: show a progress bar.
      **kwargs: of `tfds.core.DatasetBuilder`.
    """
    self._source = source
    self._skip_bad_audio = skip_bad_audio
    self._progress = progress
    lengths_vary = source.NUM_SAMPLES is None
    self.labels = prepared.Labels(lengths_vary=lengths_vary)
    self._per_shard = (
      _UTTERANCES_PER_SHARD if lengths_vary else _EXAMPLES_PER_SHARD
    )
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'audio': tfds.features.Tensor(
        shape=(self._source.NUM_SAMPLES,), dtype=np.int16, encoding='bytes'
      ),
      'keyword': tfds.features.Text(),
      'speaker': tfds.features.Text(),
      'session': tfds.features.Text(),
      'utterance_id': tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager):
    if not self._skip_bad_audio:
      try:
        self._source.check()
      except InputError as error:
        raise _with_advice(error) from error
    count, recordings = self._source.recordings(
      functools.partial(_download, dl_manager)
    )
    bar = tqdm.tqdm(
      recordings,
      desc=f'Preparing {self.name}',
      total=count,
      unit=' clips',
      disable=not self._progress,
    )
    # The shards are written one after another, so they share the iterator.
    examples = functools.partial(self._examples, iter(bar))
    num_shards = -(-count // self._per_shard)
    return {prepared.SPLIT: [examples] * num_shards}

  def _examples(self, recordings: Iterator[Recording]) -> Iterator[_Example]:
    """Yields the examples of the next shard."""
    for recording in itertools.islice(recordings, self._per_shard):
      try:
        audio = recording.read()
      except InputError as error:
        if not self._skip_bad_audio:
          raise _with_advice(error) from error
        self.labels.left_out.append(str(error))
        if len(self.labels.left_out) <= _MAX_WARNINGS:
          logging.warning('Left out: %s', error)
        continue
      self.labels.add(recording, audio)
      example = {
        'audio': audio,
        'keyword': recording.keyword,
        'speaker': recording.speaker,
        'session': recording.session,
        'utterance_id': recording.utterance_id,
      }
      yield len(self.labels), example


def _with_advice(error: InputError) -> InputError:
  return InputError(f'{error} --skip_bad_audio leaves such files out.')


def builder_class(source: Source, config: str) -> type[CorpusBuilder]:
  """Makes the TFDS builder of a corpus.

  Args:
    source: gives the name and the version.
    config: name of its only configuration.
  """

  # Several may be made, of one name.
  class Builder(CorpusBuilder, skip_registration=True):  # type: ignore[call-arg]
    name = source.NAME
    VERSION = tfds.core.Version(source.VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]
    url_infos = {
      url: checksums.UrlInfo(num_bytes, sha256, filename=None)
      for url, (num_bytes, sha256) in source.DOWNLOADS.items()
    }

  return Builder


def prepare(
  source: Source,
  cache_dir: pathlib.Path,
  *,
  skip_bad_audio: bool = False,
  progress: bool = True,
) -> None:
  """Writes the recordings and labels of a corpus into the cache.

  The labels come last, so what a killed run leaves is never taken for a corpus;
  the next run removes it.

  Raises:
    InputError: if a recording is damaged, all are, a download fails or the
      disk is full.
  """
  folder = prepared.folder_of(source, cache_dir, skip_bad_audio=skip_bad_audio)
  with _lock(cache_dir):
    if prepared.load(folder, source.NAME) is not None:
      return  # Another process has done it meanwhile.
    _remove_leftovers(cache_dir, folder)
    tfds.display_progress_bar(progress)
    builder = builder_class(source, folder.parent.name)(
      source,
      skip_bad_audio=skip_bad_audio,
      progress=progress,
      data_dir=cache_dir,
    )
    # TFDS announces itself on stdout, which is for results.
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
          file_format='array_record',
          download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except RuntimeError as error:  # So ArrayRecord says that the disk is full.
      reason = str(error).partition(';')[0]
      raise InputError(
        f'--cache_dir={cache_dir}: cannot be written ({reason}).'
      ) from error
    labels = builder.labels
    if not len(labels):
      raise InputError(
        f'{source.NAME}: all {len(labels.left_out)} recordings are bad, for '
        f'instance {labels.left_out[0]}'
      )
    if labels.left_out:
      logging.warning(
        '%s: bad recordings left out: %d of %d.',
        source.NAME,
        len(labels.left_out),
        len(labels.left_out) + len(labels),
      )
    labels.write(folder)


@contextlib.contextmanager
def _lock(cache_dir: pathlib.Path) -> Iterator[None]:
  """Lets one process prepare at a time; a killed one lets go."""
  with open(cache_dir / '.preparing', 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.info('Waiting for another process to prepare a corpus.')
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _remove_leftovers(cache_dir: pathlib.Path, folder: pathlib.Path) -> None:
  """Removes what killed runs left behind."""
  leftovers: Sequence[pathlib.Path] = [
    folder,
    *cache_dir.glob('*/*/incomplete.*'),
    *cache_dir.glob('downloads/*/*.tmp.*'),
  ]
  for leftover in leftovers:
    shutil.rmtree(leftover, ignore_errors=True)


def _download(dl_manager, url: str) -> pathlib.Path:
  """Downloads a file once, and checks its hash.

  Raises:
    InputError: if there is no network, or the file is not what it should be.
  """
  try:
    notes = pathlib.Path(dl_manager.download_dir).glob('*/*.INFO')
    if not any(url in note.read_text() for note in notes):  # Not there yet.
      # TFDS tries for minutes before it gives up; this asks once.
      request = urllib.request.Request(url, method='HEAD')
      urllib.request.urlopen(request, timeout=30).close()
    return pathlib.Path(dl_manager.download(url))
  except Exception as error:
    if isinstance(error, urllib.error.HTTPError):
      error.close()  # It is the open response.
    raise InputError(
      f'{url} could not be downloaded ({" ".join(str(error).split())}); '
      '--data_dir may name a folder that holds the file.'
    ) from error
