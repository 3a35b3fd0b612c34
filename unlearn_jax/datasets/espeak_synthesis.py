"""A corpus of spoken commands by synthetic speakers, made from a seed.

The same configuration gives the same samples in every process and on every
machine with the same build of eSpeak NG: all that follows the library is
integer arithmetic.

Each speaker and each utterance draws from a random stream of its own: take 2
of speaker 3 sounds the same in a corpus of 5 speakers as in one of 50.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

import numpy as np

from unlearn_jax.datasets import espeak_ng
from unlearn_jax.datasets import integer_audio
from unlearn_jax.types import InputError

SAMPLE_RATE_HZ = integer_audio.SAMPLE_RATE_HZ
NUM_SAMPLES = 16_000
KEYWORDS = tuple('yes no up down left right on off stop go'.split())
MAX_SPEAKERS = 1_000  # So many fit the digits of an id.
MAX_TAKES = 100

# All of the library's English, less the Shavian spelling.
_ACCENTS = tuple(
  'en en-US en-US-nyc en-029 en-GB-scotland en-GB-x-rp en-GB-x-gbclan '
  'en-GB-x-gbcwmd'.split()
)
# Left out are variants that whisper, croak, echo or sound like robots or near
# duplicates, and all that use the Klatt synthesiser or breath noise: there the
# library calls exp and cos, whose last bits may differ between machines.
_VARIANTS = tuple(
  'Alex Andrea Annie Denis Gene Mario Nguyen antonio aunty belinda boris ed f1 '
  'grandma gustave iven3 linda m1 m3 m5 m7 marcelo steph'.split()
)
_BABBLE = (
  'the weather has been warm all week, and the garden needs water again. '
  'we took an early train and read the papers until the next station. '
  'she keeps a box of old letters under the window in her kitchen. '
  'most people here walk to work along the river when it is dry.'
)
_MAX_SHIFT = SAMPLE_RATE_HZ // 8  # Of a word from the middle of the clip.

# Streams of random numbers, by what they decide.
_ORDER, _SPEAKER, _UTTERANCE = range(3)


@dataclasses.dataclass(frozen=True)
class EspeakConfig:
  """What a corpus consists of.

  Attributes:
    keywords: words to speak, of the letters a to z.
    num_speakers: synthetic speakers.
    takes: recordings of each keyword by each speaker.
    seed: of every random choice.
    min_snr_db: lowest ratio of speech to background noise.
    max_snr_db: highest ratio; each take draws a whole number between the two.
  """

  keywords: tuple[str, ...] = KEYWORDS
  num_speakers: int = 20
  takes: int = 10
  seed: int = 0
  min_snr_db: int = 3
  max_snr_db: int = 28

  def __post_init__(self) -> None:
    """Raises ValueError where a value is out of bounds."""
    for keyword in self.keywords:
      if not (keyword.isascii() and keyword.isalpha() and keyword.islower()):
        raise ValueError(
          f'keywords must consist of the letters a to z, got {keyword!r}.'
        )
    if not self.keywords or len(set(self.keywords)) < len(self.keywords):
      raise ValueError(
        f'keywords must be one or more different words, got {self.keywords}.'
      )
    for name, low, high in (
      ('num_speakers', 1, MAX_SPEAKERS),
      ('takes', 1, MAX_TAKES),
      ('seed', 0, 2**32 - 1),
      ('min_snr_db', -20, 60),
      ('max_snr_db', self.min_snr_db, 60),
    ):
      value = getattr(self, name)
      if not low <= value <= high:
        raise ValueError(f'{name} must be in [{low}, {high}], got {value}.')


@dataclasses.dataclass(frozen=True)
class _Speaker:
  voice: str
  pitch: int
  pitch_range: int
  rate_wpm: int
  tilt: int  # Of the spectrum: weight of the previous sample, in 16ths.


def synthesise(
  config: EspeakConfig,
) -> Iterator[tuple[str, str, str, np.ndarray]]:
  """Speaks a corpus.

  Yields:
    utterance_id (`stop/speaker_007_take_03`), in sorted order; keyword; speaker
    (`speaker_007`); audio, int16 [16000] at 16 kHz.

  Raises:
    InputError: the library is missing, or a keyword is too long for a second.
  """
  for keyword in sorted(config.keywords):
    for speaker in range(config.num_speakers):
      for take in range(config.takes):
        name = f'speaker_{speaker:03}'
        audio = synthesise_utterance(config, keyword, speaker, take)
        yield f'{keyword}/{name}_take_{take:02}', keyword, name, audio


def synthesise_utterance(
  config: EspeakConfig, keyword: str, speaker: int, take: int
) -> np.ndarray:
  """Speaks one utterance of a corpus, int16 [16000] at 16 kHz."""
  draws = integer_audio.Draws(
    config.seed, _UTTERANCE, speaker, take, int.from_bytes(keyword.encode())
  )
  word = _speak_word(keyword, _speaker(config.seed, speaker), draws)
  speech_rms = integer_audio.amplitude(draws.integer(20, 36))
  snr = integer_audio.power(draws.integer(config.min_snr_db, config.max_snr_db))
  noise_rms = math.isqrt(speech_rms**2 * 4_096 // snr)
  latest = NUM_SAMPLES - len(word)
  onset = latest // 2 + draws.integer(-_MAX_SHIFT, _MAX_SHIFT)
  onset = min(max(onset, 0), latest)
  audio = integer_audio.scale_to(_noise(draws), noise_rms)
  audio[onset : onset + len(word)] += integer_audio.scale_to(word, speech_rms)
  peak = int(np.abs(audio).max())
  if peak > 32_767:
    audio = audio * 32_767 // peak
  return audio.astype(np.int16)


def _speaker(seed: int, index: int) -> _Speaker:
  """Makes up a speaker; no variant is used twice before all have been."""
  lap, place = divmod(index, len(_VARIANTS))
  order = integer_audio.Draws(seed, _ORDER, lap).permutation(len(_VARIANTS))
  draws = integer_audio.Draws(seed, _SPEAKER, index)
  return _Speaker(
    voice=f'gmw/{draws.choice(_ACCENTS)}+{_VARIANTS[order[place]]}',
    pitch=draws.integer(30, 65),
    pitch_range=draws.integer(25, 75),
    rate_wpm=draws.integer(130, 220),
    tilt=draws.integer(-9, 6),
  )


def _speak_word(
  keyword: str, speaker: _Speaker, draws: integer_audio.Draws
) -> np.ndarray:
  """Speaks a word, whole within a clip, int64 [samples] at 16 kHz."""
  text = keyword + draws.choice('.!?,')  # The punctuation sets the intonation.
  rate_wpm = speaker.rate_wpm * draws.integer(80, 125) // 100
  pitch = speaker.pitch + draws.integer(-8, 8)
  pitch_range = speaker.pitch_range + draws.integer(-20, 20)
  tilt = speaker.tilt + draws.integer(-3, 3)
  while True:
    speech = espeak_ng.synthesise_speech(
      text,
      speaker.voice,
      rate_wpm=rate_wpm,
      pitch=pitch,
      pitch_range=pitch_range,
    )
    word = integer_audio.resample(_trim(speech))
    if len(word) <= NUM_SAMPLES:
      break
    if rate_wpm == espeak_ng.MAX_RATE_WPM:
      raise InputError(
        f'keyword {keyword!r} lasts {len(word) / SAMPLE_RATE_HZ:.2f} s at '
        f'{rate_wpm} words a minute; it must fit a clip of one second.'
      )
    rate_wpm = min(rate_wpm * 5 // 4, espeak_ng.MAX_RATE_WPM)
  return 16 * word + tilt * np.concatenate([[0], word[:-1]])


def _trim(speech: np.ndarray) -> np.ndarray:
  """Cuts the silence at both ends, 40 dB below the peak, but for 10 ms."""
  level = np.abs(speech.astype(np.int64))
  loud = np.flatnonzero(100 * level > level.max(initial=0))
  if not len(loud):
    raise RuntimeError('eSpeak NG gave silence.')
  margin = espeak_ng.SAMPLE_RATE_HZ // 100
  return speech[max(0, loud[0] - margin) : loud[-1] + margin]


def _noise(draws: integer_audio.Draws) -> np.ndarray:
  """Mixes white and pink noise, hum and babble, one above the others."""
  parts = [
    draws.white_noise(NUM_SAMPLES),
    draws.pink_noise(NUM_SAMPLES),
    draws.hum(NUM_SAMPLES),
    _babble(draws),
  ]
  weights = [draws.integer(0, 5) ** 2 for _ in parts]
  weights[draws.integer(0, len(parts) - 1)] += 16
  noise = np.zeros(NUM_SAMPLES, np.int64)
  for part, weight in zip(parts, weights, strict=True):
    noise += weight * integer_audio.scale_to(part, 1_000)
  return noise


def _babble(draws: integer_audio.Draws) -> np.ndarray:
  """Sums four talkers, each somewhere in what it says, int64 [16000]."""
  total = np.zeros(NUM_SAMPLES, np.int64)
  for _ in range(4):
    talk = draws.choice(_talkers())
    start = draws.integer(0, len(talk) - NUM_SAMPLES)
    total += talk[start : start + NUM_SAMPLES]
  return total


@functools.cache
def _talkers() -> tuple[np.ndarray, ...]:
  """Speaks the babble in several voices, each int64 [samples]."""
  voices = [f'gmw/en+{variant}' for variant in _VARIANTS[::3]]
  speech = [espeak_ng.synthesise_speech(_BABBLE, voice) for voice in voices]
  return tuple(
    integer_audio.scale_to(integer_audio.resample(talk), 1_000)
    for talk in speech
  )
