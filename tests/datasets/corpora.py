"""Labels of made-up corpora, for the tests of splits."""

import numpy as np

from unlearn_jax.datasets import splits
from unlearn_jax.datasets.corpus import Corpus


def make_corpus(cells, official_split=None):
  """Builds labels from a list of (keyword, speaker, number of takes)."""
  labels = [(k, s, i) for k, s, takes in cells for i in range(takes)]
  keywords = tuple(sorted({k for k, _, _ in labels}))
  speakers = tuple(sorted({s for _, s, _ in labels}))
  return Corpus(
    name='fake',
    source=(),
    utterance_id=np.array([f'{k}/{s}_{i}' for k, s, i in labels]),
    keyword=np.array([keywords.index(k) for k, _, _ in labels], np.int32),
    speaker=np.array([speakers.index(s) for _, s, _ in labels], np.int32),
    keywords=keywords,
    speakers=speakers,
    official_split=official_split,
    fingerprint='',
    session=np.array([i for _, _, i in labels], np.int32),
    sessions=tuple(f'take {i}' for i in range(max(i for *_, i in labels) + 1)),
  )


def grid(num_keywords=4, num_speakers=10, takes=10):
  return [
    (f'word{k}', f'speaker{s}', takes)
    for k in range(num_keywords)
    for s in range(num_speakers)
  ]


def parts_of(split):
  return [getattr(split, name) for name in splits.PARTS]


OFFICIAL = np.tile(np.int8([0, 0, 0, 0, 0, 0, 0, 1, 2, 2]), 40)
