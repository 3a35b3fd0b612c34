"""A corpus: what is filled in, its tasks, and utterances of any length."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax.datasets import builder
from unlearn_jax.datasets import prepared
from unlearn_jax.datasets import source
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.types import InputError


def utterance(i):
  """The shortest are first and the longest last; one sample a row apart."""
  return np.random.default_rng(i).integers(-99, 99, 400 + i).astype(np.int16)


class VaryingSource(source.Source):
  """Utterances out of order, the shortest of 400 samples."""

  NAME = 'varying_corpus'
  NUM_SAMPLES = None

  def __init__(self, count=25, longer=0):
    self.count, self.longer = count, longer

  def key(self):
    return [self.count, self.longer]

  def recordings(self, download):
    order = np.random.default_rng(0).permutation(self.count).tolist()
    return self.count, (
      source.Recording(
        utterance_id=f'u{i:04}',
        keyword='speech',
        speaker=f's{i % 2}',
        read=lambda i=i: np.pad(utterance(i), (0, self.longer)),
      )
      for i in order
    )


def prepare(varying, cache_dir):
  builder.prepare(varying, cache_dir, progress=False)
  folder = prepared.folder_of(varying, cache_dir, skip_bad_audio=False)
  return prepared.load(folder, 'varying')


def make_corpus(**kwargs):
  return Corpus(
    name='fake',
    source=(),
    utterance_id=np.array(['a', 'b', 'c']),
    keyword=np.int32([0, 1, 0]),
    speaker=np.int32([1, 0, 0]),
    keywords=('no', 'yes'),
    speakers=('ann', '_background_noise_'),
    official_split=None,
    fingerprint='',
    **kwargs,
  )


def test_what_is_not_given():
  corpus = make_corpus()
  assert corpus.lengths.tolist() == [16_000] * 3
  assert corpus.lengths.dtype == np.int64
  assert corpus.session.tolist() == [0, 0, 0] and corpus.sessions == ('',)
  assert corpus.session.dtype == np.int32
  assert make_corpus(num_samples=800).lengths.tolist() == [800] * 3
  with pytest.raises(ValueError, match='lengths must be given'):
    make_corpus(num_samples=None)


def test_labels_of_a_task():
  corpus = make_corpus()
  label, names = corpus.labels('kws')
  assert (label.tolist(), names) == ([0, 1, 0], ('no', 'yes'))
  label, names = corpus.labels('sid')
  assert (label.tolist(), names) == ([1, 0, 0], ('ann', '_background_noise_'))
  assert label.dtype == np.int32
  with pytest.raises(InputError, match='^--task=asr: must be one of kws, sid'):
    corpus.labels('asr')


def test_utterances_of_any_length_are_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, '_UTTERANCES_PER_SHARD', 10)
  corpus = prepare(VaryingSource(), tmp_path)
  assert corpus.num_samples is None
  assert corpus.lengths.tolist() == [400 + i for i in range(25)]
  assert corpus.lengths.dtype == np.int64
  rows = np.array([24, 0, 3, 3])
  for row, audio in zip(rows, corpus.read_utterances(rows), strict=True):
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, utterance(row))
  assert corpus.read_utterances(np.arange(0)) == []
  assert len(list(tmp_path.rglob('*.array_record*'))) == 3
  with pytest.raises(ValueError, match='varying must be of one length'):
    corpus.read_audio(rows)


def test_length_counts_in_the_fingerprint(tmp_path):
  one, two = (prepare(VaryingSource(3, longer), tmp_path) for longer in (0, 1))
  assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize('session', ['', 'video'])
def test_session_counts_in_the_fingerprint(tmp_path, session):
  class WithSession(VaryingSource):
    def recordings(self, download):
      count, found = super().recordings(download)
      return count, (dataclasses.replace(r, session=session) for r in found)

  (tmp_path / 'other').mkdir()
  one = prepare(VaryingSource(3), tmp_path)
  two = prepare(WithSession(3), tmp_path / 'other')
  assert two.sessions == (session,)
  assert (one.fingerprint == two.fingerprint) == (session == '')


def test_utterances_of_one_length_are_read_likewise():
  audio = np.arange(6, dtype=np.int16).reshape(3, 2)
  corpus = dataclasses.replace(
    make_corpus(num_samples=2), source=[{'audio': x} for x in audio]
  )
  rows = np.array([2, 0])
  np.testing.assert_array_equal(corpus.read_audio(rows), audio[rows])
  np.testing.assert_array_equal(corpus.read_utterances(rows), audio[rows])
