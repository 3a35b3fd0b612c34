"""What a corpus file says about its corpus; preparing it is left to `builder`.

A source knows what it will hold before any audio is read, so a corpus that is
prepared already is found without reading any.
"""

import abc
from collections.abc import Callable, Iterator
import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np

TRAINING, VALIDATION, TEST = range(3)

Download = Callable[[str], pathlib.Path]


@dataclasses.dataclass(frozen=True)
class Recording:
  """One utterance.

  Attributes:
    utterance_id: unique, and the same on every machine.
    keyword: name of the class.
    speaker: name of the speaker.
    read: returns the audio at 16 kHz, int16 [NUM_SAMPLES] of the source, or
      [samples] where they vary; raises `InputError` where it is damaged.
    official_split: `TRAINING`, `VALIDATION` or `TEST`; None where the corpus
      has no official split.
    session: name of what was recorded together with it (a video, a take);
      sessions are of one speaker, so two speakers may have one of the same
      name. Empty where it is unknown.
  """

  utterance_id: str
  keyword: str
  speaker: str
  read: Callable[[], np.ndarray]
  official_split: int | None = None
  session: str = ''


class Source(abc.ABC):
  """A corpus before it is prepared.

  Attributes:
    NAME: of the corpus, in snake case.
    VERSION: raised when the same files give other recordings or labels.
    NUM_SAMPLES: of every recording; None where they vary.
    DOWNLOADS: bytes and SHA-256 of each file that may be downloaded.
    config: which of several variants of the corpus.
  """

  NAME: ClassVar[str]
  VERSION: ClassVar[str] = '1.0.0'
  NUM_SAMPLES: ClassVar[int | None] = 16_000
  DOWNLOADS: ClassVar[dict[str, tuple[int, str]]] = {}
  config: str = 'default'

  @abc.abstractmethod
  def key(self) -> Any:
    """Returns all that decides the recordings, as JSON can hold it."""

  def check(self) -> None:  # noqa: B027  # Most sources list what there is.
    """Raises InputError if files that belong to the corpus are missing.

    Not called where they may be left out: `recordings` gives them all the same,
    and they cannot be read.
    """

  @abc.abstractmethod
  def recordings(self, download: Download) -> tuple[int, Iterator[Recording]]:
    """Returns how many recordings there are and, one by one, the recordings.

    The order is free. A recording is read, if at all, before the next one is
    asked for.

    Args:
      download: fetches an address into the cache and returns the file.
    """
