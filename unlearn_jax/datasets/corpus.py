"""A prepared corpus: audio on disk, labels in memory."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Recordings and what is known about each.

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
    session: [n] int32, index into `sessions`; a session is of one speaker, so
      the pair of both identifies it. None stands for sessions all unknown.
    sessions: names of the sessions; '' is an unknown one.
    sample_rate_hz: always 16,000 here.
    num_samples: of every recording; None where they vary.
    lengths: [n] int64, samples of each recording; need not be given where they
      are all the same.
    features: [n, frames, bins] float16, what networks read of a corpus that has
      no sound; None where it is computed from the sound.
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
  session: np.ndarray = None  # type: ignore[assignment]
  sessions: tuple[str, ...] = ('',)
  sample_rate_hz: int = 16_000
  num_samples: int | None = 16_000
  lengths: np.ndarray = None  # type: ignore[assignment]
  features: np.ndarray | None = None

  def __post_init__(self) -> None:
    """Fills in what was not given."""
    if self.session is None:
      unknown = np.zeros(len(self), np.int32)
      object.__setattr__(self, 'session', unknown)
    if self.lengths is None:
      if self.num_samples is None:
        raise ValueError('lengths must be given where num_samples is None.')
      lengths = np.full(len(self), self.num_samples, np.int64)
      object.__setattr__(self, 'lengths', lengths)

  def __len__(self) -> int:
    """Returns how many recordings there are."""
    return len(self.utterance_id)

  def labels(self, task: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the class of each recording, [n] int32, and the class names.

    | task | classes |
    |---|---|
    | kws | keywords |
    | sid | speakers |

    What no person said has a speaker of its own (`_background_noise_` in
    Speech Commands), which is a class of `sid` just as `_silence_` is one of
    `kws`.

    Raises:
      InputError: if the task is unknown.
    """
    classes = {
      'kws': (self.keyword, self.keywords),
      'sid': (self.speaker, self.speakers),
    }
    if task not in classes:
      raise InputError(f'--task={task}: must be one of {", ".join(classes)}.')
    return classes[task]

  def read_audio(self, rows: np.ndarray) -> np.ndarray:
    """Reads the recordings of `rows`, int16 [len(rows), num_samples].

    Raises:
      ValueError: if their lengths vary.
    """
    if self.num_samples is None:
      raise ValueError(
        f'recordings of {self.name} must be of one length to be one array; '
        'use read_utterances.'
      )
    audio = np.empty((len(rows), self.num_samples), np.int16)
    for i, utterance in enumerate(self._read(rows)):
      audio[i] = utterance
    return audio

  def read_utterances(self, rows: np.ndarray) -> list[np.ndarray]:
    """Reads the recordings of `rows`, each int16 [its entry in `lengths`]."""
    return list(self._read(rows))

  def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
    getitems = getattr(self.source, '__getitems__', None)
    examples = (
      getitems([int(i) for i in rows])
      if getitems
      else (self.source[int(i)] for i in rows)
    )
    for example in examples:
      yield example['audio']
