"""A prepared corpus: audio on disk, labels in memory."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Recordings of one second and what is known about each.

  Rows are in the order of `utterance_id`, which is stable across runs and
  machines; `source` reads audio lazily, so a corpus of any size costs only its
  labels.

  Attributes:
    name: registry name, with the builder configuration if there are several.
    source: random access to examples, each a dict with `audio`, int16
      [samples].
    utterance_id: [n] strings, unique.
    keyword: [n] int32, index into `keywords`.
    speaker: [n] int32, index into `speakers`.
    keywords: names of the classes.
    speakers: names of the speakers.
    official_split: [n] int8, 0 training, 1 validation, 2 test; None where the
      corpus has no official split.
    fingerprint: hexadecimal hash of the ids, labels and recordings.
    sample_rate_hz: always 16,000 here.
    num_samples: samples a clip.
  """

  name: str
  source: Sequence[dict[str, Any]]
  utterance_id: np.ndarray
  keyword: np.ndarray
  speaker: np.ndarray
  keywords: tuple[str, ...]
  speakers: tuple[str, ...]
  official_split: np.ndarray | None
  fingerprint: str
  sample_rate_hz: int = 16_000
  num_samples: int = 16_000

  def __len__(self) -> int:
    """Returns how many recordings there are."""
    return len(self.utterance_id)

  def read_audio(self, rows: np.ndarray) -> np.ndarray:
    """Reads the recordings of `rows`, int16 [len(rows), num_samples]."""
    audio = np.empty((len(rows), self.num_samples), np.int16)
    getitems = getattr(self.source, '__getitems__', None)
    examples = (
      getitems([int(i) for i in rows])
      if getitems
      else (self.source[int(i)] for i in rows)
    )
    for i, example in enumerate(examples):
      audio[i] = example['audio']
    return audio
