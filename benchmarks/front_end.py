r"""Times log-mel front ends side by side in one run.

  python benchmarks/front_end.py --clips=12000 --repeats=5

Input is noise. librosa gets float32 clips in memory, the JAX front end also
int16, as a corpus holds them. Repeats alternate between the candidates; times
are medians, compile time is apart. librosa computes on one core, in float64.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import timing

from unlearn_jax.features import log_mel

_CLIPS = flags.DEFINE_integer('clips', 12_000, 'Clips of one second.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repeats of each candidate.', 1)
_CHUNK = flags.DEFINE_integer(
  'chunk', 1_000, 'Clips in one call of the JAX front end.', 1
)
_LIBROSA_BATCH = flags.DEFINE_integer(
  'librosa_batch', 200, 'Clips in one call of librosa in batches.', 1
)

CONFIG = log_mel.LogMelConfig()


def make_clips(num_clips: int, seed: int = 0) -> np.ndarray:
  """Returns white noise, int16 [clips, samples]."""
  rng = np.random.default_rng(seed)
  return np.stack(
    [
      (rng.standard_normal(16_000, np.float32) * 3_000).astype(np.int16)
      for _ in range(num_clips)
    ]
  )


def librosa_features(
  clips: np.ndarray, batch: int | None, *, logarithm: bool = True
) -> np.ndarray:
  """Computes by librosa, float32 [clips, bins, frames].

  Args:
    clips: float32 [clips, samples].
    batch: clips in one call; None passes one clip at a time, without batch
      axis.
    logarithm: whether to take it.
  """
  frames = CONFIG.num_frames(clips.shape[1])
  out = np.empty((len(clips), CONFIG.num_mels, frames), np.float32)
  for first in range(0, len(clips), batch or 1):
    rows = slice(first, first + batch) if batch else first
    energy = librosa.feature.melspectrogram(
      y=clips[rows],
      sr=CONFIG.sample_rate_hz,
      n_fft=CONFIG.window_samples,
      hop_length=CONFIG.hop_samples,
      center=False,
      n_mels=CONFIG.num_mels,
      fmin=CONFIG.lower_edge_hz,
      fmax=CONFIG.upper_edge_hz,
    )
    if logarithm:
      energy = np.log(np.maximum(energy, CONFIG.log_floor))
    out[rows] = energy
  return out


def log_mel_by_dft(
  waveform: jax.Array, config: log_mel.LogMelConfig
) -> jax.Array:
  """Computes `log_mel` with the Fourier transform as a matrix product."""
  length, bins = config.window_samples, config.num_frequencies
  phase = 2 * np.pi * np.arange(length) / length
  window = 0.5 - 0.5 * np.cos(phase)
  angle = phase[:, None] * np.arange(bins)
  dft = window[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], 1)
  mels = jnp.float32(log_mel.mel_matrix(config))

  def of_clip(clip):
    frames = config.num_frames(clip.shape[0])
    index = np.arange(frames)[:, None] * config.hop_samples + np.arange(length)
    spectrum = clip[index].astype(jnp.float32) / 2**15 @ jnp.float32(dft)
    power = spectrum[:, :bins] ** 2 + spectrum[:, bins:] ** 2
    return jnp.log(jnp.maximum(power @ mels, config.log_floor))

  return jax.lax.map(of_clip, waveform, batch_size=50)


def jax_candidate(
  fun, clips: np.ndarray, chunk: int, config: log_mel.LogMelConfig
) -> tuple[timing.Candidate, float]:
  """Compiles `fun` and returns the candidate and the compile time in s.

  The last chunk begins early enough to be whole.
  """
  chunk = min(chunk, len(clips))
  start = time.perf_counter()
  shape = jax.ShapeDtypeStruct((chunk, clips.shape[1]), clips.dtype)
  compiled = jax.jit(lambda x: fun(x, config)).lower(shape).compile()
  compile_s = time.perf_counter() - start

  def candidate():
    frames = config.num_frames(clips.shape[1])
    out = np.empty((len(clips), frames, config.num_mels), np.float32)
    for first in range(0, len(clips), chunk):
      first = min(first, len(clips) - chunk)
      out[first : first + chunk] = compiled(clips[first : first + chunk])
    return out

  return candidate, compile_s


def make_candidates(
  clips: np.ndarray, chunk: int, librosa_batch: int
) -> tuple[dict[str, timing.Candidate], dict[str, float]]:
  """Returns the candidates and the compile times in s of those in JAX."""
  real = clips.astype(np.float32) / 2**15
  wide = log_mel.LogMelConfig(fft_length=512)
  candidates: dict[str, timing.Candidate] = {
    'librosa, clip by clip': lambda: librosa_features(real, None),
    'librosa, batches': lambda: librosa_features(real, librosa_batch),
    'librosa, batches, no logarithm': lambda: librosa_features(
      real, librosa_batch, logarithm=False
    ),
  }
  compile_s = {}
  for name, fun, audio, config in (
    ('log_mel, int16', log_mel.log_mel, clips, CONFIG),
    ('log_mel, float32', log_mel.log_mel, real, CONFIG),
    ('log_mel, int16, FFT of 512', log_mel.log_mel, clips, wide),
    ('DFT as a matrix product, int16', log_mel_by_dft, clips, CONFIG),
  ):
    candidates[name], compile_s[name] = jax_candidate(fun, audio, chunk, config)
  return candidates, compile_s


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  clips = make_clips(_CLIPS.value)
  candidates, compile_s = make_candidates(
    clips, _CHUNK.value, _LIBROSA_BATCH.value
  )
  sample = clips[:20]
  want = librosa_features(sample.astype(np.float32) / 2**15, 20).swapaxes(1, 2)
  error = np.abs(log_mel.log_mel(sample, CONFIG) - want).max()
  print(f'log_mel against librosa: largest difference {error:.1e}')
  print(f'{len(clips)} clips, median of {_REPEATS.value} (least to most)')
  times = timing.measure(candidates, _REPEATS.value)
  timing.print_table(times, 'log_mel, int16', compile_s)


if __name__ == '__main__':
  app.run(main)
