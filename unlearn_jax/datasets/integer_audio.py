"""Audio in integer arithmetic: the same samples on every machine.

Random numbers come from the raw output of a bit generator, which NumPy promises
to keep (it does not for the distributions of `Generator`). The tables that are
computed in floating point (`resampling_taps`, `amplitude`, `power`) are rounded
to integers, and none of their entries is so near to halfway between two
integers that the last bits of a float matter.
"""

from collections.abc import Sequence
import functools
import math
from typing import TypeVar

import numpy as np
import scipy.signal

T = TypeVar('T')

SOURCE_RATE_HZ = 22_050
SAMPLE_RATE_HZ = 16_000  # 320 / 441 of the source's.


class Draws:
  """A stream of random integers, named by a key of integers."""

  def __init__(self, *key: int):
    """Starts the stream; different keys give independent streams."""
    self._bits = np.random.PCG64(np.random.SeedSequence(key))

  def integer(self, low: int, high: int) -> int:
    """Draws from low, ..., high; the bias of the modulus is negligible."""
    return low + int(self._bits.random_raw()) % (high - low + 1)

  def choice(self, items: Sequence[T]) -> T:
    """Draws one of `items`."""
    return items[self.integer(0, len(items) - 1)]

  def permutation(self, n: int) -> np.ndarray:
    """Draws an order of 0, ..., n - 1."""
    return np.argsort(self._bits.random_raw(n), kind='stable')

  def white_noise(self, n: int) -> np.ndarray:
    """Draws white noise, int64 [n], uniform in the range of int16."""
    raw = self._bits.random_raw(-(-n // 4)).astype('<u8')
    return raw.view('<i2')[:n].astype(np.int64)

  def pink_noise(self, n: int) -> np.ndarray:
    """Sums white noises held for 1, 2, 4, ... samples (Voss), int64 [n]."""
    total = np.zeros(n, np.int64)
    for octave in range(11):
      hold = 1 << octave
      held = np.repeat(self.white_noise(n // hold + 2), hold)
      start = self.integer(0, hold - 1)
      total += held[start : start + n]
    return total

  def hum(self, n: int) -> np.ndarray:
    """Draws a triangle wave of 45 to 240 Hz, int64 [n]."""
    step = self.integer(45, 240) * 2**16 // SAMPLE_RATE_HZ
    phase = (self.integer(0, 2**16 - 1) + step * np.arange(n)) % 2**16
    return np.abs(phase - 2**15) - 2**14


def resample(audio: np.ndarray) -> np.ndarray:
  """Resamples int16 audio from 22,050 Hz to 16 kHz, int64 [samples].

  Products and sums here are integers below 2**53, which float64 holds exactly
  in any order of summation. The filter delays by 23.2 samples and lets the end
  ring as long.
  """
  filtered = scipy.signal.upfirdn(
    resampling_taps(), audio.astype(np.float64), up=320, down=441
  )
  return (filtered.astype(np.int64) + 2**14) >> 15


@functools.cache
def resampling_taps() -> np.ndarray:
  """Low-pass filter of `resample`, integers below 2**15 in float64."""
  taps = scipy.signal.firwin(
    64 * 320 + 1, cutoff=7_400, fs=320 * SOURCE_RATE_HZ
  )
  return np.round(taps * 320 * 2**15)


def amplitude(level_db: int) -> int:
  """Amplitude that lies `level_db` below 32,768."""
  return round(32_768 * 10 ** (-level_db / 20))


def power(db: int) -> int:
  """Ratio of powers, times 4,096."""
  return round(4_096 * 10 ** (db / 10))


def scale_to(audio: np.ndarray, rms: int) -> np.ndarray:
  """Scales int64 `audio` to a root mean square."""
  now = max(1, math.isqrt(int(np.sum(audio**2)) // len(audio)))
  return (audio * rms + now // 2) // now
