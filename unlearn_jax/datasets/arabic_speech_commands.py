"""Arabic Speech Commands: 40 keywords, 30 speakers, 10 takes of each.

Ghandoura, Hjabo and Al Dakkak, "Building and benchmarking an Arabic Speech
Commands dataset for small-footprint keyword spotting", Engineering Applications
of Artificial Intelligence 102, 2021.
"""

from unlearn_jax.datasets.audio_folder import LabelledFolder


class ArabicSpeechCommands(LabelledFolder):
  """Clips of one second at 16 kHz; has no official split."""

  NAME = 'arabic_speech_commands'
  LAYOUT = '<keyword>/<speaker>_NO_<take>.wav or .flac'
  SUBFOLDER = 'dataset'
  PATTERN = r'(?P<keyword>[^/]+)/(?P<speaker>[^/]+)_NO_(?P<take>\d+)\.\w+'
