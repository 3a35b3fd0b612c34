"""Preparing: order, exactness, interruption, memory and bad recordings."""

import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import weakref

import numpy as np
import pytest
import tensorflow_datasets as tfds

from unlearn_jax.datasets import builder
from unlearn_jax.datasets import prepared
from unlearn_jax.datasets import source
from unlearn_jax.types import InputError

ROOT = pathlib.Path(__file__).parents[2]


def clip(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(-(2**15), 2**15, 16_000).astype(np.int16)


class FakeSource(source.Source):
  """Recordings out of order; may be damaged, and may fail on the way."""

  NAME = 'fake_corpus'

  def __init__(self, count=25, bad=(), fail_at=None, has_split=True):
    self.count = count
    self.bad = set(bad)
    self.fail_at = fail_at
    self.has_split = has_split
    self.passes = 0

  def key(self):
    return [self.count]

  def recordings(self, download):
    self.passes += 1
    order = np.random.default_rng(0).permutation(self.count).tolist()
    return self.count, self._recordings(order)

  def _recordings(self, order):
    for step, i in enumerate(order):
      if step == self.fail_at:
        raise KeyboardInterrupt
      yield source.Recording(
        utterance_id=f'u{i:04}',
        keyword=('yes', 'no', 'up')[i % 3],
        speaker=f's{i % 4}',
        read=lambda i=i: self.read(i),
        official_split=i % 3 if self.has_split else None,
        session=f't{i % 5}',
      )

  def read(self, i):
    if i in self.bad:
      raise InputError(f'u{i:04}.wav: is damaged.')
    return clip(i)


def prepare(fake, cache_dir, **kwargs):
  builder.prepare(fake, cache_dir, progress=False, **kwargs)
  return load(fake, cache_dir, **kwargs)


def load(fake, cache_dir, skip_bad_audio=False):
  return prepared.load(folder(fake, cache_dir, skip_bad_audio), 'fake')


def folder(fake, cache_dir, skip_bad_audio=False):
  return prepared.folder_of(fake, cache_dir, skip_bad_audio=skip_bad_audio)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  monkeypatch.setattr(builder, '_EXAMPLES_PER_SHARD', 10)


def test_rows_are_in_the_order_of_ids_whatever_that_of_records(tmp_path):
  corpus = prepare(FakeSource(), tmp_path)
  rows = np.arange(25)
  assert corpus.utterance_id.tolist() == [f'u{i:04}' for i in rows]
  assert corpus.keywords == ('no', 'up', 'yes')
  assert corpus.speakers == ('s0', 's1', 's2', 's3')
  np.testing.assert_array_equal(corpus.keyword, np.array([2, 0, 1])[rows % 3])
  np.testing.assert_array_equal(corpus.speaker, rows % 4)
  assert corpus.sessions == ('t0', 't1', 't2', 't3', 't4')
  np.testing.assert_array_equal(corpus.session, rows % 5)
  np.testing.assert_array_equal(corpus.official_split, rows % 3)
  assert corpus.keyword.dtype == corpus.speaker.dtype == np.int32
  assert corpus.official_split.dtype == np.int8


def test_audio_is_kept_bit_for_bit(tmp_path):
  corpus = prepare(FakeSource(), tmp_path)
  expected = np.stack([clip(i) for i in range(25)])
  np.testing.assert_array_equal(corpus.read_audio(np.arange(25)), expected)
  rows = np.array([24, 3, 3, 11])
  np.testing.assert_array_equal(corpus.read_audio(rows), expected[rows])
  np.testing.assert_array_equal(corpus.source[7]['audio'], expected[7])
  assert corpus.read_audio(np.arange(0)).shape == (0, 16_000)
  assert len(corpus.source) == 25
  with pytest.raises(IndexError):
    corpus.source[25]


def test_tfds_reads_the_folder_by_itself(tmp_path):
  prepare(FakeSource(), tmp_path)
  reader = tfds.builder_from_directory(folder(FakeSource(), tmp_path))
  assert reader.info.name == 'fake_corpus'
  assert reader.info.splits['train'].num_examples == 25
  assert len(reader.info.splits['train'].filenames) == 3
  examples = reader.as_data_source('train')
  for example in examples:
    i = int(example['utterance_id'][1:])
    assert example['keyword'].decode() == ('yes', 'no', 'up')[i % 3]
    assert example['speaker'].decode() == f's{i % 4}'
    assert example['session'].decode() == f't{i % 5}'
    np.testing.assert_array_equal(example['audio'], clip(i))


def test_no_official_split(tmp_path):
  assert prepare(FakeSource(has_split=False), tmp_path).official_split is None


def test_tensorflow_is_not_imported(tmp_path):
  prepare(FakeSource(), tmp_path).read_audio(np.arange(3))
  assert 'tensorflow' not in sys.modules


def test_fingerprint_is_that_of_ids_labels_and_recordings(tmp_path):
  def fingerprint(name, **changes):
    fake = FakeSource(**changes.pop('arguments', {}))
    for attribute, value in changes.items():
      setattr(fake, attribute, value)
    return prepare(fake, tmp_path / name).fingerprint

  def softer(i):
    audio = clip(i)
    audio[0] += i == 20
    return audio

  for name in 'abcd':
    (tmp_path / name).mkdir()
  original = fingerprint('a')
  assert len(original) == 64 and int(original, 16)
  assert fingerprint('b') == original
  assert fingerprint('c', read=softer) != original
  assert fingerprint('d', arguments={'has_split': False}) != original


def test_few_recordings_are_in_memory_at_a_time(tmp_path, monkeypatch):
  alive, most = weakref.WeakSet(), 0

  class Clip(np.ndarray):  # Unlike its base class, may be put into a set.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

  def read(i):
    nonlocal most
    audio = clip(i).view(Clip)
    alive.add(audio)
    most = max(most, len(alive))
    return audio

  fake = FakeSource(200)
  monkeypatch.setattr(fake, 'read', read)
  assert len(prepare(fake, tmp_path)) == 200
  assert 1 <= most <= 2 * 10  # A shard, and what its writer still holds.


@pytest.mark.parametrize('fail_at', [0, 13, 24])
def test_interrupted_preparation_leaves_no_corpus(tmp_path, fail_at):
  with pytest.raises(KeyboardInterrupt):
    prepare(FakeSource(fail_at=fail_at), tmp_path)
  assert load(FakeSource(), tmp_path) is None
  assert not list(tmp_path.rglob('*array_record*'))
  corpus = prepare(FakeSource(), tmp_path)
  np.testing.assert_array_equal(corpus.read_audio(np.array([24]))[0], clip(24))


def test_killed_preparation_leaves_no_corpus(tmp_path):
  program = f"""
    import os, signal, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'datasets')!r}]
    import pathlib, test_builder
    from unlearn_jax.datasets import builder
    builder._EXAMPLES_PER_SHARD = 10
    class Killed(test_builder.FakeSource):
      def read(self, i):
        if i == 20:
          os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)
    test_builder.prepare(Killed(), pathlib.Path({str(tmp_path)!r}))
  """
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(program)])
  assert done.returncode == -signal.SIGKILL
  assert list(tmp_path.rglob('*array_record*'))
  assert load(FakeSource(), tmp_path) is None
  corpus = prepare(FakeSource(), tmp_path)
  np.testing.assert_array_equal(corpus.read_audio(np.array([20]))[0], clip(20))
  assert len(list(tmp_path.rglob('*array_record*'))) == 3


@pytest.mark.parametrize('damage', ['no labels', 'half labels', 'no shard'])
def test_corpus_that_is_not_whole_is_prepared_again(tmp_path, damage):
  first = prepare(FakeSource(), tmp_path)
  labels = folder(FakeSource(), tmp_path) / 'labels.npz'
  if damage == 'no labels':
    labels.unlink()
  elif damage == 'half labels':
    labels.write_bytes(labels.read_bytes()[:500])
  else:
    sorted(labels.parent.glob('*array_record*'))[1].unlink()
  assert load(FakeSource(), tmp_path) is None
  again = prepare(FakeSource(), tmp_path)
  assert again.fingerprint == first.fingerprint
  np.testing.assert_array_equal(again.read_audio(np.array([15]))[0], clip(15))


def test_two_processes_prepare_once(tmp_path):
  fake = FakeSource(50)
  threads = [
    threading.Thread(target=prepare, args=(fake, tmp_path)) for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert fake.passes == 1
  assert len(load(fake, tmp_path)) == 50


def test_bad_recording_ends_the_preparation(tmp_path):
  problem = '^u0007.wav: is damaged. --skip_bad_audio leaves'
  with pytest.raises(InputError, match=problem):
    prepare(FakeSource(bad=[7]), tmp_path)
  assert load(FakeSource(), tmp_path) is None


def test_bad_recordings_are_left_out_and_listed(tmp_path, caplog):
  bad = [0, 7, *range(10, 24)]  # The last of three shards stays empty.
  fake = FakeSource(bad=bad)
  corpus = prepare(fake, tmp_path, skip_bad_audio=True)
  good = [i for i in range(25) if i not in bad]
  assert corpus.utterance_id.tolist() == [f'u{i:04}' for i in good]
  expected = np.stack([clip(i) for i in good])
  np.testing.assert_array_equal(
    corpus.read_audio(np.arange(len(good))), expected
  )
  assert 'bad recordings left out: 16 of 25.' in caplog.text
  for i in bad:
    assert f'Left out: u{i:04}.wav: is damaged.' in caplog.text
  left_out = prepared.left_out(folder(fake, tmp_path, skip_bad_audio=True))
  assert sorted(left_out) == [f'u{i:04}.wav: is damaged.' for i in bad]
  assert load(fake, tmp_path) is None  # It is no full corpus.


def test_shard_of_bad_recordings_alone(tmp_path):
  order = np.random.default_rng(0).permutation(25)
  corpus = prepare(FakeSource(bad=order[10:20]), tmp_path, skip_bad_audio=True)
  assert len(corpus) == 15
  last = int(corpus.utterance_id[-1][1:])
  np.testing.assert_array_equal(corpus.source[14]['audio'], clip(last))


def test_corpus_of_bad_recordings_alone_is_refused(tmp_path):
  with pytest.raises(InputError, match='all 25 recordings are bad, .* u00'):
    prepare(FakeSource(bad=range(25)), tmp_path, skip_bad_audio=True)


def test_progress_goes_to_stderr_or_nowhere(tmp_path, capfd):
  builder.prepare(FakeSource(), tmp_path, progress=True)
  out, err = capfd.readouterr()
  assert not out and 'Preparing fake_corpus' in err and '25/25' in err
  builder.prepare(FakeSource(26), tmp_path, progress=False)
  assert capfd.readouterr() == ('', '')


def test_full_disk_is_one_line_that_names_the_folder(tmp_path, monkeypatch):
  def full(self, **kwargs):
    raise RuntimeError('write() failed: No space left; at byte 5; closed')

  monkeypatch.setattr(builder.CorpusBuilder, 'download_and_prepare', full)
  with pytest.raises(InputError, match='--cache_dir=.*: cannot be written'):
    builder.prepare(FakeSource(), tmp_path, progress=False)
