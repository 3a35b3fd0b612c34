"""Audio files against closed forms and against integers written by hand."""

import io
import struct

import numpy as np
import pytest
import soundfile

from unlearn_jax.datasets import audio_files
from unlearn_jax.types import InputError

LOSSLESS = ('WAV', 'FLAC')
FORMATS = ('WAV', 'FLAC', 'OGG', 'MP3')


def encode(audio, rate_hz=16_000, file_format='WAV', subtype=None):
  file = io.BytesIO()
  soundfile.write(file, audio, rate_hz, subtype, format=file_format)
  return file.getvalue()


def noise(num_samples=16_000, seed=0):
  rng = np.random.default_rng(seed)
  audio = rng.integers(-(2**15), 2**15, num_samples).astype(np.int16)
  audio[:2] = [-(2**15), 2**15 - 1][:num_samples]
  return audio


def sine(rate_hz, hertz=440.0, seconds=1.0):
  time = np.arange(int(rate_hz * seconds)) / rate_hz
  return 0.5 * np.sin(2 * np.pi * hertz * time)


@pytest.mark.parametrize('file_format', LOSSLESS)
@pytest.mark.parametrize('num_samples', [1, 15_999, 16_000, 40_001])
def test_16_khz_16_bit_is_kept_bit_for_bit(file_format, num_samples):
  audio = noise(num_samples)
  decoded = audio_files.decode(encode(audio, file_format=file_format), 'x')
  assert decoded.dtype == np.int16
  np.testing.assert_array_equal(decoded, audio)


@pytest.mark.parametrize('file_format', ['OGG', 'MP3'])
def test_lossy_formats_keep_a_sine(file_format):
  data = encode(sine(16_000), file_format=file_format)
  decoded = audio_files.decode(data, 'x') / 32_768
  assert len(decoded) == 16_000
  middle = slice(2_000, 14_000)
  error = decoded[middle] - sine(16_000)[middle]
  assert np.sqrt(np.mean(error**2)) < 0.01  # 34 dB below the sine's peak.


def test_channels_are_averaged():
  left, right = noise(seed=1), noise(seed=2)
  data = encode(np.stack([left, right], axis=1))
  expected = np.rint((left.astype(np.float64) + right) / 2)
  np.testing.assert_array_equal(audio_files.decode(data, 'x'), expected)


def test_24_bit_is_rounded():
  fine = np.arange(-(2**23), 2**23, 997)  # Left-aligned in 32 bits.
  data = encode((fine << 8).astype(np.int32), subtype='PCM_24')
  expected = np.clip(np.rint(fine / 256.0), -(2**15), 2**15 - 1)
  np.testing.assert_array_equal(audio_files.decode(data, 'x'), expected)


def test_float_beyond_full_scale_is_clipped():
  data = encode(np.array([0.0, 0.5, 1.5, -1.5]), subtype='FLOAT')
  np.testing.assert_array_equal(
    audio_files.decode(data, 'x'), [0, 16_384, 32_767, -32_768]
  )


@pytest.mark.parametrize('rate_hz', [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate_hz):
  decoded = audio_files.decode(encode(sine(rate_hz), rate_hz), 'x') / 32_768
  assert len(decoded) == 16_000
  middle = slice(1_000, 15_000)
  np.testing.assert_allclose(decoded[middle], sine(16_000)[middle], atol=2e-4)


def test_short_clip_is_centred():
  clip = audio_files.fit(np.array([1, 2, 3], np.int16))
  assert clip.dtype == np.int16 and clip.shape == (16_000,)
  np.testing.assert_array_equal(np.flatnonzero(clip), [7_998, 7_999, 8_000])
  np.testing.assert_array_equal(clip[7_998:8_001], [1, 2, 3])


def test_clip_of_one_second_is_kept():
  audio = noise()
  np.testing.assert_array_equal(audio_files.fit(audio), audio)


def test_long_clip_keeps_its_loudest_second():
  audio = noise(16_200, seed=3)
  energy = [
    sum(int(x) ** 2 for x in audio[start : start + 16_000])
    for start in range(201)
  ]
  start = energy.index(max(energy))
  assert 0 < start < 200
  expected = audio[start : start + 16_000]
  np.testing.assert_array_equal(audio_files.fit(audio), expected)


def test_first_of_equally_loud_seconds_is_kept():
  audio = np.zeros(40_000, np.int16)
  audio[[5_000, 30_000]] = 1
  assert audio_files.fit(audio)[5_000] == 1


@pytest.mark.parametrize('file_format', FORMATS)
@pytest.mark.parametrize('share', [0.3, 0.6, 0.9, 0.999])
def test_file_cut_short_is_refused(file_format, share, capfd):
  audio = noise(32_000) // 4
  data = encode(audio, file_format=file_format)
  assert len(audio_files.decode(data, 'x')) == 32_000
  with pytest.raises(InputError, match='^clip.x: '):
    audio_files.decode(data[: int(share * len(data))], 'clip.x')
  capfd.readouterr()  # The MP3 decoder complains on stderr.


# Files are made inside the test: soundfile writes the time into some, and the
# names of tests must not change from one worker to the next.
BAD_FILES = {
  'empty': (lambda: b'', r'is empty \(0 bytes\)'),
  'text': (lambda: b'no audio at all' * 100, 'is no audio'),
  'no samples': (
    lambda: encode(np.zeros(0, np.int16)),
    'holds no samples',
  ),
  'nan': (
    lambda: encode(np.array([0.1, np.nan]), subtype='FLOAT'),
    'not finite',
  ),
  'infinity': (
    lambda: encode(np.array([0.1, np.inf]), subtype='FLOAT'),
    'not finite',
  ),
  '100 Hz': (
    lambda: encode(noise(), rate_hz=100),
    r'100 Hz; must be in \[4000, 384000\]',
  ),
}


@pytest.mark.parametrize('kind', BAD_FILES)
def test_bad_file_is_refused(kind):
  make, problem = BAD_FILES[kind]
  with pytest.raises(InputError, match=f'^clip.wav: .*{problem}') as raised:
    audio_files.decode(make(), 'clip.wav')
  assert '\n' not in str(raised.value)


def test_damage_inside_a_flac_file_is_refused():
  data = bytearray(encode(noise(), file_format='FLAC'))
  data[len(data) // 2] ^= 0xFF
  with pytest.raises(InputError, match='damaged'):
    audio_files.decode(bytes(data), 'x')


def wav_with_chunks(audio, before=b'', after=b'', data_size=None):
  samples = audio.tobytes()
  header = struct.pack('<4sIHHIIHH', b'fmt ', 16, 1, 1, 16_000, 32_000, 2, 16)
  size = len(samples) if data_size is None else data_size
  chunk = struct.pack('<4sI', b'data', size) + samples
  body = b'WAVE' + header + before + chunk + after
  return struct.pack('<4sI', b'RIFF', len(body)) + body


def test_header_that_claims_terabytes_is_refused():
  data = bytearray(encode(noise(), file_format='FLAC'))
  data[21] |= 0x0F  # The number of samples is 36 bits; these are the highest.
  with pytest.raises(InputError, match='s; must be at most 300'):
    audio_files.decode(bytes(data), 'x')


def test_wav_with_other_chunks_is_whole():
  odd = struct.pack('<4sI', b'LIST', 5) + b'abcde\0'
  data = wav_with_chunks(noise(), before=odd, after=odd)
  np.testing.assert_array_equal(audio_files.decode(data, 'x'), noise())


@pytest.mark.parametrize('size', [0x7FFF_FFFF, 0xFFFF_FFFF])
def test_wav_written_to_a_pipe_is_whole(size):
  data = wav_with_chunks(noise(), data_size=size)
  np.testing.assert_array_equal(audio_files.decode(data, 'x'), noise())


@pytest.mark.parametrize('rate_hz', [8_000, 16_000])
def test_whole_utterance_lasts_a_frame_or_more(rate_hz):
  shortest = rate_hz * 25 // 1_000
  data = encode(noise(shortest) // 4, rate_hz)
  assert audio_files.decode_utterance(data, 'x').shape == (400,)
  problem = '^clip.wav: lasts 39[89] samples .* must be at least 400'
  with pytest.raises(InputError, match=problem):
    audio_files.decode_utterance(
      encode(noise(shortest - 1) // 4, rate_hz), 'clip.wav'
    )


def test_whole_utterance_is_neither_cut_nor_padded(tmp_path):
  path = tmp_path / 'long.flac'
  path.write_bytes(encode(noise(40_001), file_format='FLAC'))
  found = audio_files.read_utterance(path)
  np.testing.assert_array_equal(found, noise(40_001))
  with pytest.raises(InputError, match='absent.wav: cannot be read'):
    audio_files.read_utterance(tmp_path / 'absent.wav')


def test_read_clip_names_a_file_that_is_not_there(tmp_path):
  path = tmp_path / 'absent.wav'
  with pytest.raises(InputError, match='absent.wav: cannot be read'):
    audio_files.read_clip(path)
  path.write_bytes(encode(noise(8_000)))
  assert audio_files.read_clip(path).shape == (16_000,)
