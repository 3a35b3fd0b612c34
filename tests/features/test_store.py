"""The cache of features: computed once, whole, and for the right corpus."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.features import log_mel
from unlearn_jax.features import store

CONFIG = log_mel.LogMelConfig(num_mels=20)
SAMPLES = 1_600


class Source:
  """Noise clips; counts what is read, and may fail at one."""

  def __init__(self, num_clips, fail_at=-1):
    rng = np.random.default_rng(0)
    self.audio = rng.integers(-9_000, 9_000, (num_clips, SAMPLES), np.int16)
    self.num_reads = 0
    self.fail_at = fail_at

  def __len__(self):
    return len(self.audio)

  def __getitem__(self, row):
    if row == self.fail_at:
      raise KeyboardInterrupt
    self.num_reads += 1
    return {'audio': self.audio[row]}


def make_corpus(num_clips=7, **kwargs):
  corpus = Corpus(
    name='noise',
    source=Source(num_clips),
    utterance_id=np.array([f'clip_{i}' for i in range(num_clips)]),
    keyword=np.zeros(num_clips, np.int32),
    speaker=np.zeros(num_clips, np.int32),
    keywords=('noise',),
    speakers=('nobody',),
    official_split=None,
    fingerprint='ab12',
    num_samples=SAMPLES,
  )
  return dataclasses.replace(corpus, **kwargs)


class StoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder) / 'cache'

  def load(self, corpus, config=CONFIG, **kwargs):
    return store.load_features(corpus, config, self.folder, **kwargs)

  @parameterized.parameters(1, 3, 7, 100)
  def test_equals_log_mel_for_any_chunk(self, chunk):
    corpus = make_corpus()
    got = self.load(corpus, chunk=chunk)
    self.assertIsInstance(got, np.memmap)
    self.assertFalse(got.flags.writeable)
    self.assertEqual(got.dtype, np.float16)
    want = log_mel.log_mel(corpus.source.audio, CONFIG)
    np.testing.assert_allclose(np.float32(got), want, rtol=5e-4)

  def test_warm_load_reads_no_audio_and_equals_the_cold_one(self):
    corpus = make_corpus()
    cold = np.array(self.load(corpus))
    self.assertEqual(corpus.source.num_reads, 7)
    warm = self.load(corpus)
    self.assertEqual(corpus.source.num_reads, 7)
    np.testing.assert_array_equal(warm, cold)

  def test_reports_progress(self):
    progress = mock.Mock()
    self.load(make_corpus(), chunk=3, progress=progress)
    self.assertEqual(
      progress.call_args_list, [mock.call(i, 7) for i in (3, 6, 7)]
    )

  def test_other_corpus_or_config_is_another_file(self):
    corpus = make_corpus()
    paths = {
      store.cache_path(corpus, CONFIG, self.folder),
      store.cache_path(make_corpus(fingerprint='cd34'), CONFIG, self.folder),
      store.cache_path(corpus, log_mel.LogMelConfig(), self.folder),
    }
    self.assertLen(paths, 3)

  @parameterized.named_parameters(
    ('cut_short', lambda data: data[:-1]),
    ('cut_in_the_header', lambda data: data[:40]),
    ('empty', lambda data: b''),
    ('longer', lambda data: data + b'0'),
    ('not_an_array', lambda data: b'0' * len(data)),
    ('pickle', lambda data: b'\x80\x04K\x01.'),
    ('archive', lambda data: b'PK\x03\x04' + data),
  )
  def test_damaged_file_is_computed_anew(self, damage):
    corpus = make_corpus()
    want = np.array(self.load(corpus))
    path = store.cache_path(corpus, CONFIG, self.folder)
    data = path.read_bytes()
    path.write_bytes(damage(data))
    np.testing.assert_array_equal(self.load(corpus), want)
    self.assertEqual(path.read_bytes(), data)

  @parameterized.parameters(
    ((6, 8, 20), 'f2'), ((7, 8, 20), 'f4'), ((7, 20, 8), 'f2')
  )
  def test_foreign_array_is_computed_anew(self, shape, dtype):
    corpus = make_corpus()
    want = np.array(self.load(corpus))
    path = store.cache_path(corpus, CONFIG, self.folder)
    np.save(path, np.zeros(shape, dtype))
    np.testing.assert_array_equal(self.load(corpus), want)

  def test_interrupted_call_leaves_nothing(self):
    corpus = make_corpus(source=Source(7, fail_at=5))
    with self.assertRaises(KeyboardInterrupt):
      self.load(corpus, chunk=2)
    self.assertEmpty(os.listdir(self.folder))

  def test_folder_that_cannot_be_written(self):
    self.folder.write_text('a file')
    with self.assertRaisesRegex(types.InputError, '--cache_dir=.*cache'):
      self.load(make_corpus())

  def test_other_sample_rate(self):
    config = log_mel.LogMelConfig(8_000, num_mels=20, upper_edge_hz=4_000.0)
    with self.assertRaisesRegex(types.InputError, 'sample_rate_hz=8000'):
      self.load(make_corpus(), config)

  def test_bad_chunk(self):
    with self.assertRaisesRegex(ValueError, 'chunk must be positive, got 0'):
      self.load(make_corpus(), chunk=0)

  def test_imports_no_audio_package(self):
    code = (
      'import sys, unlearn_jax.features.store;'
      'names = {"librosa", "tensorflow_datasets", "soundfile", "soxr"};'
      'print(sorted(names & set(sys.modules)))'
    )
    done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True
    )
    self.assertEqual((done.returncode, done.stdout.strip()), (0, '[]'))


if __name__ == '__main__':
  absltest.main()
