"""Free Spoken Digit Dataset: 10 digits, 6 speakers, 50 takes of each.

Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset. The
recordings, of 0.1 to 2.3 s at 8 kHz, become clips of one second at 16 kHz.
"""

import os
import re

from unlearn_jax.datasets import source
from unlearn_jax.datasets.audio_folder import LabelledFolder
from unlearn_jax.types import InputError

_TEST_TAKES = range(5)
# Of the configuration '30_takes': 1,800 clips, about as many as there are in
# `digit_images`, with as many classes.
_FEW_TAKES = range(30)


class FreeSpokenDigits(LabelledFolder):
  """Takes 0 to 4 are the official test set, the others for training."""

  NAME = 'free_spoken_digits'
  LAYOUT = '<digit>_<speaker>_<take>.wav or .flac'
  SUBFOLDER = 'recordings'
  PATTERN = r'(?P<keyword>\d)_(?P<speaker>[^/]+)_(?P<take>\d+)\.\w+'

  def __init__(
    self, data_dir: str | os.PathLike | None, config: str = 'default'
  ):
    """Lists the files.

    Args:
      data_dir: folder of the recordings.
      config: 'default', or '30_takes' for takes 0 to 29.

    Raises:
      InputError: if there is no such folder or it is laid out otherwise.
    """
    self.config = config
    super().__init__(data_dir)
    if config == '30_takes':
      kept = [m for m in self._matches if int(m[1]['take']) in _FEW_TAKES]
      if not kept:
        raise InputError(
          f'--data_dir={data_dir}: must hold takes below {len(_FEW_TAKES)}; '
          'has none.'
        )
      self._num_files -= len(self._matches) - len(kept)
      self._matches = kept

  def official_split(self, match: re.Match[str]) -> int:
    """Returns the official split of a file, by its take."""
    is_test = int(match['take']) in _TEST_TAKES
    return source.TEST if is_test else source.TRAINING
