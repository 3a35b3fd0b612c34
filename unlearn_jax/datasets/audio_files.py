"""Audio files as clips of one second or whole, 16 kHz, mono, 16 bit.

A file that is so already is kept bit for bit. Several channels are averaged and
other rates resampled (soxr, high quality).
"""

import io
import pathlib

import numpy as np
import soundfile
import soxr

from unlearn_jax.types import InputError

SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = 16_000
MIN_SAMPLES = 400  # One frame of 25 ms: a whole utterance has features.
SUFFIXES = ('.wav', '.flac', '.ogg', '.mp3')
_MIN_RATE_HZ, _MAX_RATE_HZ = 4_000, 384_000
_MAX_SECONDS = 300  # A damaged header may ask for terabytes.
# Programs that write to a pipe put a size near 2^31 or 2^32 for "unknown".
_UNKNOWN_SIZE = 0x7FFF_0000


def read_clip(path: pathlib.Path) -> np.ndarray:
  """Reads a file as one clip, int16 [16000].

  Raises:
    InputError: as `decode`, or if the file cannot be read.
  """
  return fit(decode(_read(path), str(path)))


def read_utterance(path: pathlib.Path) -> np.ndarray:
  """Reads the whole of a file, int16 [samples].

  Raises:
    InputError: as `decode_utterance`, or if the file cannot be read.
  """
  return decode_utterance(_read(path), str(path))


def decode_utterance(data: bytes, name: str) -> np.ndarray:
  """Decodes the whole of a file, int16 [samples].

  Raises:
    InputError: as `decode`, or if it is shorter than a frame of 25 ms.
  """
  audio = decode(data, name)
  if len(audio) < MIN_SAMPLES:
    raise InputError(
      f'{name}: lasts {len(audio)} samples at 16 kHz; must be at least '
      f'{MIN_SAMPLES} (25 ms).'
    )
  return audio


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}).') from error


def fit(audio: np.ndarray) -> np.ndarray:
  """Makes a recording last one second, int16 [samples] to [16000].

  A short one gets zeros on both sides, as many before as after: augmentation
  that shifts the clip then cuts silence and not speech. Of a long one the
  second with the most energy stays, the first of several.
  """
  missing = NUM_SAMPLES - len(audio)
  if missing >= 0:
    return np.pad(audio, (missing // 2, missing - missing // 2))
  energy = np.cumsum(audio.astype(np.int64) ** 2)
  energy = np.concatenate([[0], energy])
  start = int(np.argmax(energy[NUM_SAMPLES:] - energy[:-NUM_SAMPLES]))
  return audio[start : start + NUM_SAMPLES]


def decode(data: bytes, name: str) -> np.ndarray:
  """Decodes the contents of a file of any length, int16 [samples] at 16 kHz.

  Args:
    data: the file, in any format that libsndfile knows.
    name: of the file, for messages.

  Raises:
    InputError: if the file is empty, is no audio, is cut short, or has samples
      that are not finite, or a sample rate or duration out of bounds.
  """
  if not data:
    raise InputError(f'{name}: is empty (0 bytes).')
  try:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
      rate_hz, frames = file.samplerate, file.frames
      _check_header(name, rate_hz, frames)
      layout = (rate_hz, file.channels, file.subtype)
      is_exact = layout == (SAMPLE_RATE_HZ, 1, 'PCM_16')
      audio = file.read(
        dtype='int16' if is_exact else 'float32', always_2d=True
      )
  except soundfile.LibsndfileError as error:
    raise InputError(
      f'{name}: is no audio, or is damaged ({error.error_string.strip(" .")}).'
    ) from error
  if len(audio) < frames or _is_cut_short(data):
    raise InputError(
      f'{name}: is cut short: only {len(audio)} frames could be read.'
    )
  if not len(audio):
    raise InputError(f'{name}: holds no samples.')
  if is_exact:
    return audio[:, 0]
  if not np.isfinite(audio).all():
    raise InputError(f'{name}: holds samples that are not finite.')
  mono = audio.mean(axis=1)
  if rate_hz != SAMPLE_RATE_HZ:
    mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality='HQ')
  return np.clip(np.rint(mono * 32_768), -32_768, 32_767).astype(np.int16)


def _check_header(name: str, rate_hz: int, frames: int) -> None:
  if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
    raise InputError(
      f'{name}: has a sample rate of {rate_hz} Hz; must be in '
      f'[{_MIN_RATE_HZ}, {_MAX_RATE_HZ}].'
    )
  if frames > _MAX_SECONDS * rate_hz:
    raise InputError(
      f'{name}: says it lasts {frames / rate_hz:.0f} s; must be at most '
      f'{_MAX_SECONDS}.'
    )


def _is_cut_short(data: bytes) -> bool:
  """Finds the end missing where libsndfile makes do with what is there.

  It complains of a FLAC file without its end, and reads fewer frames of an MP3
  file than its header says; but a WAV or Ogg file counts as whole to it.
  """
  if data[:4] == b'RIFF':
    return _wav_is_cut_short(data)
  if data[:4] == b'OggS':
    return _ogg_is_cut_short(data)
  return False


def _wav_is_cut_short(data: bytes) -> bool:
  """Compares the size of the `data` chunk with what follows its header."""
  start = 12
  while start + 8 <= len(data):
    size = int.from_bytes(data[start + 4 : start + 8], 'little')
    if data[start : start + 4] == b'data':
      return len(data) - start - 8 < size < _UNKNOWN_SIZE
    start += 8 + size + size % 2  # Chunks are padded to an even size.
  return False


def _ogg_is_cut_short(data: bytes) -> bool:
  """Looks whether the last page is whole and says that it is the last."""
  page = data[data.rfind(b'OggS') :]
  if len(page) < 27 or not page[5] & 4:
    return True
  segments = page[27 : 27 + page[26]]
  return len(page) < 27 + page[26] + sum(segments)
