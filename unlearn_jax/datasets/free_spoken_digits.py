"""Free Spoken Digit Dataset: 10 digits, 6 speakers, 50 takes of each.

Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset. The
recordings, of 0.1 to 2.3 s at 8 kHz, become clips of one second at 16 kHz.
"""

import re

from unlearn_jax.datasets import source
from unlearn_jax.datasets.audio_folder import LabelledFolder

_TEST_TAKES = range(5)


class FreeSpokenDigits(LabelledFolder):
  """Takes 0 to 4 are the official test set, the others for training."""

  NAME = 'free_spoken_digits'
  LAYOUT = '<digit>_<speaker>_<take>.wav or .flac'
  SUBFOLDER = 'recordings'
  PATTERN = r'(?P<keyword>\d)_(?P<speaker>[^/]+)_(?P<take>\d+)\.\w+'

  def official_split(self, match: re.Match[str]) -> int:
    """Returns the official split of a file, by its take."""
    is_test = int(match['take']) in _TEST_TAKES
    return source.TEST if is_test else source.TRAINING
