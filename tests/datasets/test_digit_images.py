"""The images of digits stand in the place of a corpus of speech."""

import numpy as np
import pytest
import sklearn.datasets

from unlearn_jax.datasets import digit_images
from unlearn_jax.datasets import forget
from unlearn_jax.datasets import registry
from unlearn_jax.datasets import splits
from unlearn_jax.types import InputError


def test_images_keep_their_labels(tmp_path):
  corpus = registry.load('digit_images', cache_dir=tmp_path)
  digits = sklearn.datasets.load_digits()
  assert corpus.features.shape == (1797, 8, 8)
  for row in (0, 700, 1796):
    digit, i = corpus.utterance_id[row].split('/')
    assert int(digit) == corpus.keyword[row] == digits.target[int(i)]
    np.testing.assert_array_equal(
      corpus.features[row], digits.images[int(i)].astype(np.float16)
    )
  assert list(corpus.utterance_id) == sorted(corpus.utterance_id)
  assert not list(tmp_path.iterdir())


def test_fingerprint_is_that_of_the_images():
  assert digit_images.load().fingerprint == digit_images.load().fingerprint


def test_splits_and_requests_fit():
  corpus = digit_images.load()
  split = splits.split(corpus, 'utterance', seed=0)
  sizes = [len(split.training), len(split.validation), len(split.test)]
  assert sum(sizes) == 1797 and min(sizes) > 100
  for text, size in (('sample:10', 10), ('keyword:3', None)):
    rows = forget.select(forget.parse(text), corpus, split.training, seed=0)
    want = (corpus.keyword[split.training] == 3).sum()
    assert len(rows) == (size or want)


def test_takes_no_folder(tmp_path):
  with pytest.raises(InputError, match='--data_dir=x: must not be given with'):
    registry.load('digit_images', cache_dir=tmp_path, data_dir='x')
