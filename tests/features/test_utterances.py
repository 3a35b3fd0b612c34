"""Features of utterances of any length: right, whole, and in few shapes."""

import dataclasses
import os
import pathlib
import pickle
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.features import log_mel
from unlearn_jax.features import store
from unlearn_jax.features import utterances as utterances_lib

CONFIG = log_mel.LogMelConfig(num_mels=20)
LENGTHS = np.random.default_rng(0).integers(400, 12_000, 23)


class Source:
  """Noise of many lengths; counts what is read, and may fail at one."""

  def __init__(self, lengths, fail_at=-1):
    rng = np.random.default_rng(0)
    # Steady to the end, so that a frame that saw padding would differ.
    self.audio = [rng.integers(-9_000, 9_000, n, np.int16) for n in lengths]
    self.num_reads = 0
    self.fail_at = fail_at

  def __len__(self):
    return len(self.audio)

  def __getitem__(self, row):
    if row == self.fail_at:
      raise KeyboardInterrupt
    self.num_reads += 1
    return {'audio': self.audio[row]}


def make_corpus(lengths=LENGTHS, **kwargs):
  count = len(lengths)
  corpus = Corpus(
    name='noise',
    source=Source(lengths),
    utterance_id=np.array([f'clip_{i}' for i in range(count)]),
    keyword=np.zeros(count, np.int32),
    speaker=np.zeros(count, np.int32),
    keywords=('noise',),
    speakers=('nobody',),
    official_split=None,
    fingerprint='ab12',
    num_samples=None,
    lengths=np.asarray(lengths, np.int64),
  )
  return dataclasses.replace(corpus, **kwargs)


def twin(audio):
  """The log-mels of one utterance in float64, frame by frame."""
  frames = np.lib.stride_tricks.sliding_window_view(audio / 2**15, 400)[::160]
  window = np.hanning(401)[:-1]
  power = np.abs(np.fft.rfft(frames * window)) ** 2
  return np.log(np.maximum(1e-8, power @ log_mel.mel_matrix(CONFIG)))


class UtterancesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder) / 'cache'

  def load(self, corpus, config=CONFIG, **kwargs):
    return utterances_lib.load_utterances(corpus, config, self.folder, **kwargs)

  @parameterized.parameters(1, 7, 256)
  def test_equals_those_of_each_alone(self, chunk):
    corpus = make_corpus()
    got = self.load(corpus, chunk=chunk)
    read = got.read(np.arange(23))
    for row, features in enumerate(read):
      want = twin(corpus.source.audio[row])
      self.assertEqual(features.shape, want.shape)
      self.assertEqual(features.dtype, np.float16)
      np.testing.assert_allclose(features, want, rtol=5e-4, atol=1e-4)
      self.assertLen(features, got.num_frames[row])

  def test_sizes(self):
    got = self.load(make_corpus())
    self.assertLen(got, 23)
    self.assertEqual(got.num_bins, 20)
    self.assertEqual(got.nbytes, sum(x.nbytes for x in got.read(np.arange(23))))
    # Records take little more than what is in them.
    self.assertLess(got.path.stat().st_size, got.nbytes + 23 * 100 + 200_000)

  def test_reads_rows_in_any_order(self):
    got = self.load(make_corpus())
    rows = np.array([7, 0, 7, 22])
    for row, features in zip(rows, got.read(rows), strict=True):
      np.testing.assert_array_equal(features, got.read(np.array([row]))[0])
    self.assertEmpty(got.read(rows[:0]))

  def test_compiles_few_shapes(self):
    lengths = np.arange(4_000, 16_000, 100)  # 120; ln 4 / ln 1.25 = 6.2.
    before = utterances_lib._log_mel._cache_size()
    self.load(make_corpus(lengths), chunk=50)
    self.assertLessEqual(utterances_lib._log_mel._cache_size() - before, 7)

  def test_crops_are_those_of_the_records(self):
    got = self.load(make_corpus())
    crops, on_disk = got.crops(30), got.on_disk(30)
    self.assertEqual(crops.shape, (23, 30, 20))
    rows = np.arange(23)
    for row, features in enumerate(got.read(rows)):
      want = np.resize(features, (30, 20))  # Repeated where it is shorter.
      np.testing.assert_array_equal(crops[row], want)
    np.testing.assert_array_equal(on_disk[rows], crops[rows])

  def test_survives_pickling(self):
    got = self.load(make_corpus())
    want = got.read(np.array([3]))  # Opens the file.
    copy = pickle.loads(pickle.dumps(got))
    np.testing.assert_array_equal(copy.read(np.array([3])), want)

  def test_warm_load_reads_no_audio(self):
    corpus = make_corpus()
    cold = self.load(corpus)
    self.assertEqual(corpus.source.num_reads, 23)
    warm = self.load(corpus)
    self.assertEqual(corpus.source.num_reads, 23)
    np.testing.assert_array_equal(warm.num_frames, cold.num_frames)

  def test_reports_progress(self):
    progress = mock.Mock()
    self.load(make_corpus(), chunk=10, progress=progress)
    self.assertEqual(
      progress.call_args_list, [mock.call(i, 23) for i in (10, 20, 23)]
    )

  @parameterized.named_parameters(
    ('cut_short', lambda data: data[:-1]),
    ('cut_by_half', lambda data: data[: len(data) // 2]),
    ('empty', lambda data: b''),
    ('not_records', lambda data: b'0' * len(data)),
  )
  def test_damaged_file_is_computed_anew(self, damage):
    corpus = make_corpus()
    path = self.load(corpus).path
    data = path.read_bytes()
    path.write_bytes(damage(data))
    self.load(corpus)
    self.assertEqual(path.read_bytes(), data)

  def test_records_of_other_lengths_are_refused(self):
    got = self.load(make_corpus())
    other = dataclasses.replace(got, num_frames=got.num_frames + 1)
    with self.assertRaisesRegex(types.InputError, 'record 4 must have .* got'):
      other.read(np.array([4]))

  def test_damage_in_the_middle_is_found_in_reading(self):
    got = self.load(make_corpus())
    data = bytearray(got.path.read_bytes())
    data[len(data) // 2] ^= 1
    got.path.write_bytes(data)
    with self.assertRaisesRegex(types.InputError, 'must be whole, remove it'):
      got.read(np.arange(23))

  def test_full_disk(self):
    folder = pathlib.Path('/dev/full')
    if not folder.exists():
      self.skipTest('no /dev/full')
    with self.assertRaisesRegex(OSError, 'No space left'):
      utterances_lib.write_records(folder, [np.zeros((40_000, 20))])

  def test_interrupted_call_leaves_nothing(self):
    corpus = make_corpus(source=Source(LENGTHS, fail_at=20))
    with self.assertRaises(KeyboardInterrupt):
      self.load(corpus, chunk=5)
    self.assertEmpty(os.listdir(self.folder))

  def test_utterance_shorter_than_a_window(self):
    corpus = make_corpus([800, 399, 900])
    with self.assertRaisesRegex(
      types.InputError, 'clip_1 must have at least one window, 400 .* 399'
    ):
      self.load(corpus)

  def test_folder_that_cannot_be_written(self):
    self.folder.write_text('a file')
    with self.assertRaisesRegex(types.InputError, '--cache_dir=.*cache'):
      self.load(make_corpus())

  def test_other_sample_rate(self):
    config = log_mel.LogMelConfig(8_000, num_mels=20, upper_edge_hz=4_000.0)
    with self.assertRaisesRegex(types.InputError, 'sample_rate_hz=8000'):
      self.load(make_corpus(), config)

  def test_one_array_needs_one_length(self):
    with self.assertRaisesRegex(ValueError, 'noise must be the same'):
      store.load_features(make_corpus(), CONFIG, self.folder)


if __name__ == '__main__':
  absltest.main()
