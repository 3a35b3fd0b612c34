"""What is streamed from disk is what the device would have gathered."""

import math
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.datasets import streaming
from unlearn_jax.datasets.crops import Examples
from unlearn_jax.datasets.streaming import Stream
from unlearn_jax.features import utterances as utterances_lib
from unlearn_jax.features.utterances import Utterances
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.salun import salun
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

CROP, COUNT = 8, 40
# From a fifth of a crop to five of them.
LENGTHS = np.random.default_rng(0).integers(2, 40, COUNT)
FORGET, RETAIN = np.arange(5), np.arange(5, COUNT)


def predict_fn(params, batch):
  """Reads every frame of a crop: their order counts too."""
  features = batch['features'].astype(jnp.float32)
  weight = jnp.linspace(0.5, 1.5, CROP)[None, :, None]
  pooled = (features * weight).mean(1)
  return P.predict_fn(params, {'features': pooled})


LOSS_FN = cross_entropy(predict_fn)
METHOD = salun(
  random_label(LOSS_FN, predict_fn, P.sgd(0.1, 0.9, 0.1), resample=True),
  LOSS_FN,
)


class Interrupted(Exception):
  pass


class Interruptible(fit_lib.Program):
  """Runs `left` calls more."""

  left = math.inf

  def __call__(self, *args):
    self.left -= 1
    if self.left < 0:
      raise Interrupted
    return super().__call__(*args)


PROGRAM = Interruptible(METHOD)


def epoch_batches(epoch):
  """18 steps; forget batches are padded, and the last retain batch is."""
  rng = np.random.default_rng(epoch)
  return batches.repeat(FORGET, 7, 18, rng), batches.one_pass(RETAIN, 2, rng)


def calls():
  """Two calls of 3 steps, the second with a step of padding alone."""
  rows = (np.arange(9), np.arange(9, 20)), (np.arange(20, 29), np.arange(3))
  return [
    tuple(batches.pad_steps(batches.one_pass(r, 4), 3) for r in sides)
    for sides in rows
  ]


class StreamTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder) / 'features.array_record'
    rng = np.random.default_rng(1)
    made = [rng.normal(size=(n, P.FEATURES)) for n in LENGTHS]
    utterances_lib.write_records(path, made)
    utterances = Utterances(path, LENGTHS, P.FEATURES)
    label = jnp.asarray(rng.integers(0, P.CLASSES, COUNT), jnp.int32)
    cls.resident = Examples(
      {'features': utterances.crops(CROP), 'label': label}, (5,)
    )
    cls.on_disk = {'features': utterances.on_disk(CROP), 'label': label}
    cls.stream = Stream(cls.on_disk, (5,))

  def check(self, stream, epoch=0):
    """Asserts that calls equal what `take` gathers, padding included."""
    examples = self.resident.at(epoch)
    got = list(stream.calls(calls(), epoch))
    self.assertLen(got, 2)
    for sides, (*made, none) in zip(calls(), got, strict=True):
      self.assertIsNone(none)
      for side, stacked in zip(sides, made, strict=True):
        want = [
          batches.take(examples, batches.IndexBatches(*step))
          for step in zip(*side, strict=True)
        ]
        want = jax.tree.map(lambda *x: np.stack(x), *want)
        P.assert_identical(stacked, want)

  @parameterized.parameters(0, 7)
  def test_equals_what_the_device_gathers(self, epoch):
    self.check(self.stream, epoch)

  @parameterized.parameters(1, 4)
  def test_whatever_is_read_ahead(self, ahead):
    self.check(Stream(self.on_disk, (5,), ahead=ahead))

  def test_read_by_processes(self):
    self.check(Stream(self.on_disk, (5,), workers=2))

  def test_a_method_that_needs_one_set(self):
    only = [(None, retain) for _, retain in calls()]
    got = list(self.stream.calls(only, 0))
    self.assertEqual([forget for forget, _, _ in got], [None, None])
    for (_, want, _), (_, retain, _) in zip(
      self.stream.calls(calls(), 0), got, strict=True
    ):
      P.assert_identical(retain, want)

  def test_a_row_that_comes_twice_is_read_once(self):
    utterances = mock.Mock(wraps=self.stream.arrays['features'].utterances)
    utterances.num_bins = P.FEATURES
    rows = np.array([[3, 3], [1, 3]])
    streaming.read_crops(utterances, CROP, rows, np.zeros((2, 2), int))
    self.assertEqual(utterances.read.call_args.args[0].tolist(), [1, 3])

  @parameterized.parameters(([3],), ([[0, 7], [7, 2], [9, 39]],))
  def test_compiled_code_reads_the_same(self, rows):
    rows = jnp.asarray(rows)
    get = jax.jit(lambda examples, rows: examples['features'][rows])
    got = get(self.stream.at(3), rows)
    P.assert_identical(got, get(self.resident.at(3), rows))
    self.assertEqual(
      self.on_disk['features'].shape, self.resident.arrays['features'].shape
    )

  def test_compiled_code_reads_the_same_for_a_population(self):
    rows = jnp.asarray([[0, 7], [7, 2], [9, 39]])
    get = jax.vmap(lambda examples, rows: examples['features'][rows], (None, 0))
    got = jax.jit(get)(self.stream.at(3), rows)
    P.assert_identical(got, get(self.resident.at(3), rows))

  def test_other_crops_for_evaluation(self):
    start = np.minimum(1, LENGTHS - 1)
    for crop_frames in (None, 5, 39):
      got, want = (
        examples.cropped(start, crop_frames)['features'][np.arange(COUNT)]
        for examples in (self.stream, self.resident)
      )
      P.assert_identical(got, want)
      self.assertEqual(got.shape[1], crop_frames or CROP)

  def fit(self, examples, program=PROGRAM, **options):
    state = loop.init(METHOD, P.make_params(), jax.random.key(0))
    sets = batches.one_pass(FORGET, 4), batches.one_pass(RETAIN, 4)
    options |= {'prepare_batches': sets, 'keep': True}
    return fit_lib.fit(program, state, 2, epoch_batches, examples, **options)

  def check_fit(self, got, want):
    P.assert_identical(got.state, want.state)
    P.assert_identical(got.kept, want.kept)
    self.assertEqual(got.progress.curves, want.progress.curves)
    self.assertEqual(got.progress.examples, want.progress.examples)

  def test_fit_is_the_same_to_the_last_bit(self):
    with P.optimised():
      program = fit_lib.Program(METHOD)
      want = self.fit(self.resident, program)
      self.check_fit(self.fit(self.stream, program), want)
      other = self.fit(Stream(self.on_disk, (6,)), program)
    self.assertTrue(P.differ(other.state.params, want.state.params))

  def test_resumed_in_the_middle_of_an_epoch(self):
    want = self.fit(self.resident)
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    options = {'checkpoints': folder, 'checkpoint_every_s': 0}
    PROGRAM.left = 4  # prepare, and three calls: one and a half epochs.
    self.addCleanup(setattr, PROGRAM, 'left', math.inf)
    with self.assertRaises(Interrupted):
      self.fit(self.stream, **options)
    PROGRAM.left = math.inf
    self.check_fit(self.fit(self.stream, **options), want)

  @parameterized.parameters(
    ({'ahead': 0}, 'ahead must be at least 1, got 0'),
    ({'workers': -1}, 'workers must be at least 0, got -1'),
  )
  def test_bad_options(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      Stream({}, **options)


class WhereTest(parameterized.TestCase):
  @parameterized.parameters(
    ('auto', 500, False),
    ('auto', 501, True),
    ('device', 10**6, False),
    ('stream', 1, True),
  )
  def test_streams_what_takes_more_than_half(self, where, num_bytes, want):
    with mock.patch.object(streaming, 'available_bytes', return_value=1_000):
      self.assertIs(streaming.streams(num_bytes, where), want)

  def test_unknown_place(self):
    with self.assertRaisesRegex(ValueError, "stream, got 'disk'"):
      streaming.streams(1, 'disk')

  def test_memory_of_the_host(self):
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    self.assertBetween(streaming.available_bytes(), 1, total)
    with mock.patch.object(pathlib.Path, 'read_text', side_effect=OSError):
      self.assertEqual(streaming.available_bytes(), total)

  def test_memory_of_an_accelerator(self):
    device = mock.Mock()
    device.memory_stats.return_value = {'bytes_limit': 90, 'bytes_in_use': 20}
    with mock.patch.object(jax, 'local_devices', return_value=[device]):
      self.assertEqual(streaming.available_bytes(), 70)


if __name__ == '__main__':
  absltest.main()
