"""Scores of utterances of varying length, from the device and from disk."""

import dataclasses

import numpy as np
import pytest

from experiments.data import arranged
from experiments.data import Data
from experiments.data import load
from experiments.data import Reading
from unlearn_jax.datasets import crops
from unlearn_jax.datasets import digit_images
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.features.utterances import Utterances
from unlearn_jax.features.utterances import write_records
from unlearn_jax.types import InputError

LENGTHS = np.array([3, 10, 7, 20, 8])


def make_data(tmp_path, where, score_crops):
  rng = np.random.default_rng(0)
  frames = [rng.normal(size=(n, 2)).astype(np.float16) for n in LENGTHS]
  write_records(tmp_path / 'x.array_record', iter(frames))
  utterances = Utterances(tmp_path / 'x.array_record', LENGTHS, 2)
  made = utterances.crops(8) if where == 'device' else utterances.on_disk(8)
  examples = {'features': made, 'label': np.arange(5)}
  return Data(examples, Reading(0.0, score_crops)), frames


def means(examples, rows):
  """A network that averages frames."""
  return np.asarray(examples['features'][rows], np.float32).mean(1)


@pytest.mark.parametrize('where', ['device', 'stream'])
def test_mean_over_crops(tmp_path, where):
  data, frames = make_data(tmp_path, where, score_crops=3)
  rows = np.array([3, 0, 2])
  starts = crops.even_starts(LENGTHS, 8, 3)
  want = [
    np.mean(
      [
        np.float32(crops.cut(frames[r], starts[k, r], 8)).mean(0)
        for k in range(3)
      ],
      0,
    )
    for r in rows
  ]
  np.testing.assert_allclose(data.score(means, rows), want, atol=1e-5)


def test_whole_utterances(tmp_path):
  data, frames = make_data(tmp_path, 'device', score_crops=0)
  got = data.score(means, np.array([1, 3]))
  want = [np.float32(frames[r]).mean(0) for r in (1, 3)]
  # Each is the longest of its bucket, so nothing is repeated.
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_no_rows(tmp_path):
  data, _ = make_data(tmp_path, 'device', score_crops=2)
  assert data.score(means, np.zeros(0, int)).shape == (0,)


def test_frames_are_rearranged_within_each_example():
  features = np.random.default_rng(0).normal(size=(6, 20, 3))
  features = features.astype(np.float16)
  assert arranged(features, 'ordered') is features
  shuffled = arranged(features, 'shuffled')
  np.testing.assert_array_equal(
    np.sort(shuffled[:, :, 0], 1), np.sort(features[:, :, 0], 1)
  )
  # Whole frames move, and in each example otherwise.
  places = (shuffled[:, :, None] == features[:, None]).all(-1).argmax(-1)
  assert (np.sort(places, 1) == np.arange(20)).all()
  assert len({tuple(row) for row in places}) == 6
  np.testing.assert_array_equal(arranged(features, 'shuffled'), shuffled)
  averaged = arranged(features, 'averaged')
  assert averaged.shape == features.shape and averaged.dtype == np.float16
  np.testing.assert_allclose(
    averaged[:, 7], np.float32(features).mean(1), atol=2e-3
  )


def test_frames_of_varying_number_keep_their_order(tmp_path):
  corpus = digit_images.load()
  varying = dataclasses.replace(corpus, num_samples=None, features=None)
  with pytest.raises(InputError, match='--frames=shuffled: must be ordered'):
    load(
      varying,
      corpus.keyword,
      LogMelConfig(),
      tmp_path,
      Reading(2_000.0, 5),
      'shuffled',
    )
