"""A corpus of synthetic speakers, made on the spot: needs no download."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from unlearn_jax.datasets import espeak_synthesis
from unlearn_jax.datasets.espeak_synthesis import EspeakConfig
from unlearn_jax.datasets.source import Download
from unlearn_jax.datasets.source import Recording
from unlearn_jax.datasets.source import Source

CONFIGS = {
  'default': EspeakConfig(),
  # A hundred clips, for trying things out.
  'tiny': EspeakConfig(
    keywords=('yes', 'no', 'up', 'down'), num_speakers=5, takes=5
  ),
  # Many speakers who say little, for speaker identification.
  'speakers': EspeakConfig(
    keywords=('yes', 'no', 'up', 'down'),
    num_speakers=100,
    takes=8,
    min_snr_db=10,
  ),
}


class EspeakCommands(Source):
  """Utterances by eSpeak NG; has no official split."""

  NAME = 'espeak_commands'

  def __init__(self, config: str = 'default'):
    """Synthesises nothing yet.

    Args:
      config: a key of `CONFIGS`.
    """
    self.config = config
    self._espeak = CONFIGS[config]

  def key(self) -> Any:
    """Returns the configuration of the synthesis."""
    return dataclasses.asdict(self._espeak)

  def recordings(self, download: Download) -> tuple[int, Iterator[Recording]]:
    """Returns the recordings, sorted by id."""
    del download
    espeak = self._espeak
    count = len(espeak.keywords) * espeak.num_speakers * espeak.takes
    return count, _recordings(espeak)


def _recordings(espeak: EspeakConfig) -> Iterator[Recording]:
  for utterance_id, keyword, speaker, audio in espeak_synthesis.synthesise(
    espeak
  ):
    take = utterance_id.rpartition('_')[2]
    yield Recording(utterance_id, keyword, speaker, audio.copy, session=take)
