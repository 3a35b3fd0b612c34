"""Speech from text by eSpeak NG, a formant synthesiser.

The library is GPL-3, so it is not part of this package: the Python package
`espeakng-loader` carries it, and this file alone loads it, at run time (on
Linux and macOS).
"""

import ctypes
from pathlib import Path
import threading
from types import ModuleType
from typing import Any

import numpy as np

from unlearn_jax.types import InputError

SAMPLE_RATE_HZ = 22_050
MAX_RATE_WPM = 450

# Values of the C header speak_lib.h.
_SYNCHRONOUS = 2  # No playback: samples go to the callback.
_DO_NOT_EXIT = 0x8000  # Report a failure instead of ending the process.
_UTF8 = 1
_FROM_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _PITCH_RANGE = 1, 2, 3, 4

_Callback = ctypes.CFUNCTYPE(
  ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_lock = threading.Lock()  # The library keeps its state in global variables.


def synthesise_speech(
  text: str,
  voice: str,
  *,
  rate_wpm: int = 175,
  pitch: int = 50,
  pitch_range: int = 50,
  volume: int = 60,
) -> np.ndarray:
  """Speaks `text`.

  The result depends on the arguments alone, neither on what was spoken before
  nor on the process: the library carries its pitch flutter and gain control
  from one utterance to the next and has no call to reset them, so it is loaded
  afresh for every utterance, which takes some 2 ms.

  Args:
    text: what to say.
    voice: a voice file below `lang`, with a variant if wished: `gmw/en-US`,
      `gmw/en-US+m3`.
    rate_wpm: words a minute, in [80, 450].
    pitch: 50 is the pitch that the voice file gives, in [0, 99].
    pitch_range: 0 is a monotone, in [0, 99].
    volume: 100 is the library's usual volume, at which some voices clip, in
      [0, 200].

  Returns:
    int16 [samples] at 22,050 Hz.

  Raises:
    InputError: espeakng-loader is not installed, another part of the process
      uses the library, or there is no such voice.
    ValueError: a number is out of range.
  """
  for name, value, low, high in (
    ('rate_wpm', rate_wpm, 80, MAX_RATE_WPM),
    ('pitch', pitch, 0, 99),
    ('pitch_range', pitch_range, 0, 99),
    ('volume', volume, 0, 200),
  ):
    if not low <= value <= high:
      raise ValueError(f'{name} must be in [{low}, {high}], got {value}.')
  parameters = {
    _RATE: rate_wpm,
    _VOLUME: volume,
    _PITCH: pitch,
    _PITCH_RANGE: pitch_range,
  }
  loader = _import_loader()
  variant = voice.partition('+')[2]
  # The library itself would speak on without the variant.
  if not (Path(loader.get_data_path()) / 'voices' / '!v' / variant).exists():
    raise InputError(f'eSpeak NG has no voice variant {variant!r}.')
  with _lock:
    library = _load(loader)
    try:
      return _speak(library, text, voice, parameters)
    finally:
      _unload(library)


def _import_loader() -> ModuleType:
  try:
    import espeakng_loader
  except ImportError as error:
    raise InputError(
      'espeakng-loader is not installed; the synthetic corpus needs it: '
      'pip install "unlearn_jax[synthetic]".'
    ) from error
  return espeakng_loader


def _load(loader: ModuleType) -> ctypes.CDLL:
  """Loads and initialises a fresh copy of the library."""
  library = ctypes.CDLL(loader.get_library_path())
  # A global variable that is 0 until the library is initialised.
  if library.espeak_ng_GetSampleRate() != 0:
    _close(library)
    raise InputError(
      f'{loader.get_library_path()} is already in use by another package in '
      'this process; synthesise the corpus in a process of its own.'
    )
  data_path = loader.get_data_path()
  rate = library.espeak_Initialize(
    _SYNCHRONOUS, 0, data_path.encode(), _DO_NOT_EXIT
  )
  if rate != SAMPLE_RATE_HZ:
    _close(library)
    raise InputError(
      f'{data_path}: eSpeak NG cannot read this data folder (status {rate}); '
      'it must be complete and its path no longer than about 150 characters.'
    )
  return library


def _speak(
  library: ctypes.CDLL, text: str, voice: str, parameters: dict[int, int]
) -> np.ndarray:
  chunks: list[bytes] = []

  def collect(samples: Any, num_samples: int, _: Any) -> int:
    if samples and num_samples:
      chunks.append(ctypes.string_at(samples, 2 * num_samples))
    return 0  # Go on.

  callback = _Callback(collect)  # Named, so that it lives until the end.
  library.espeak_SetSynthCallback(callback)
  library.espeak_ng_SetRandSeed(ctypes.c_long(1))
  if library.espeak_SetVoiceByName(voice.encode()) != 0:
    raise InputError(f'eSpeak NG has no voice {voice!r}.')
  for parameter, value in parameters.items():
    library.espeak_SetParameter(parameter, value, 0)
  encoded = text.encode() + b'\0'
  status = library.espeak_Synth(
    encoded,
    ctypes.c_size_t(len(encoded)),
    0,
    _FROM_CHARACTER,
    0,
    _UTF8,
    None,
    None,
  )
  if status != 0:
    raise RuntimeError(f'espeak_Synth returned {status} for {text!r}.')
  library.espeak_Synchronize()
  return np.frombuffer(b''.join(chunks), np.int16)


def _unload(library: ctypes.CDLL) -> None:
  library.espeak_Terminate()
  _close(library)


def _close(library: ctypes.CDLL) -> None:
  ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
