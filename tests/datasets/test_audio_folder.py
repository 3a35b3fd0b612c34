"""Corpora that are folders of files: ids, labels, splits and bad input."""

import numpy as np
import pytest
import soundfile

from unlearn_jax.datasets.arabic_speech_commands import ArabicSpeechCommands
from unlearn_jax.datasets.audio_folder import AudioFolder
from unlearn_jax.datasets.audio_folder import AudioFolderFull
from unlearn_jax.datasets.free_spoken_digits import FreeSpokenDigits
from unlearn_jax.types import InputError

PATTERN = r'(?P<keyword>[^/]+)/(?P<speaker>\w+)-(?P<take>\d+)\.(wav|flac)'


def write(root, *paths, rate_hz=16_000):
  for i, path in enumerate(paths):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.full(20, i, np.int16), rate_hz)
  return root


def recordings(source):
  count, found = source.recordings(download=None)
  found = list(found)
  assert count == len(found)
  return found


def labels(source):
  return [
    (r.utterance_id, r.keyword, r.speaker, r.official_split)
    for r in recordings(source)
  ]


@pytest.mark.parametrize('subfolder', ['', 'dataset'])
def test_arabic_speech_commands(tmp_path, subfolder):
  write(
    tmp_path / 'corpus' / subfolder,
    'right/00000026_NO_10.wav',
    'left/00000026_NO_02.flac',
    'left/00000003_NO_02.wav',
  )
  assert labels(ArabicSpeechCommands(tmp_path / 'corpus')) == [
    ('left/00000003_NO_02', 'left', '00000003', None),
    ('left/00000026_NO_02', 'left', '00000026', None),
    ('right/00000026_NO_10', 'right', '00000026', None),
  ]


@pytest.mark.parametrize('subfolder', ['', 'recordings'])
def test_free_spoken_digits(tmp_path, subfolder):
  takes = [f'7_theo_{take}.wav' for take in (0, 4, 5, 49)]
  write(tmp_path / subfolder, *takes, '0_a_b_4.flac', rate_hz=8_000)
  assert labels(FreeSpokenDigits(tmp_path)) == [
    ('0_a_b_4', '0', 'a_b', 2),
    ('7_theo_0', '7', 'theo', 2),
    ('7_theo_4', '7', 'theo', 2),
    ('7_theo_49', '7', 'theo', 0),
    ('7_theo_5', '7', 'theo', 0),
  ]


def test_free_spoken_digits_of_fewer_takes(tmp_path, caplog):
  write(tmp_path, '7_theo_29.wav', '7_theo_30.wav', 'song.wav', rate_hz=8_000)
  source = FreeSpokenDigits(tmp_path, '30_takes')
  assert labels(source) == [('7_theo_29', '7', 'theo', 0)]
  # The song is not of the corpus; a take too many is.
  assert '1 of 2 audio files' in caplog.text
  (tmp_path / '7_theo_29.wav').unlink()
  with pytest.raises(InputError, match='must hold takes below 30; has none'):
    FreeSpokenDigits(tmp_path, '30_takes')


def test_audio_folder(tmp_path):
  write(tmp_path, 'on/ann-1.wav', 'on/bob-1.flac', 'off/deep/x.wav')
  source = AudioFolder(tmp_path, PATTERN)
  assert labels(source) == [
    ('on/ann-1', 'on', 'ann', None),
    ('on/bob-1', 'on', 'bob', None),
  ]


def test_session_is_the_take_where_there_is_no_other(tmp_path):
  def sessions(pattern):
    return [r.session for r in recordings(AudioFolder(tmp_path, pattern))]

  write(tmp_path, 'on/ann-1.wav', 'on/ann-12.wav', 'off/bob-1.wav')
  assert sessions(PATTERN) == ['1', '1', '12']
  name = r'(?P<session>[^/])[^/]*/(?P<keyword>\w+)-'
  assert sessions(name + r'(?P<take>\d+)\.wav') == ['o', 'o', 'o']
  assert sessions(name + r'\d+\.wav') == ['o', 'o', 'o']
  optional = r'(?P<keyword>\w+)/\w+-(?P<session>12)?(?P<take>.)?\.wav'
  assert sessions(optional) == ['1', '1', '12']
  assert sessions(r'(?P<keyword>\w+)/.*') == ['', '', '']


@pytest.mark.parametrize(
  ('source', 'path', 'session'),
  [
    (ArabicSpeechCommands, 'left/00000026_NO_02.wav', '02'),
    (FreeSpokenDigits, '7_theo_49.wav', '49'),
  ],
)
def test_session_of_a_corpus_of_takes(tmp_path, source, path, session):
  write(tmp_path, path)
  assert [r.session for r in recordings(source(tmp_path))] == [session]


def test_whole_utterances_of_a_folder(tmp_path):
  write(tmp_path, 'on/ann-1.wav')
  soundfile.write(
    tmp_path / 'on/ann-2.wav', np.arange(20_001, dtype=np.int16), 16_000
  )
  source = AudioFolderFull(tmp_path, PATTERN)
  assert source.key() == AudioFolder(tmp_path, PATTERN).key()
  assert source.config != AudioFolder(tmp_path, PATTERN).config
  short, long = recordings(source)
  np.testing.assert_array_equal(long.read(), np.arange(20_001))
  problem = (
    f'^{tmp_path}/on/ann-1.wav: lasts 20 samples at 16 kHz; must be at least '
    r'400 \(25 ms\)\.$'
  )
  with pytest.raises(InputError, match=problem):
    short.read()


def test_audio_folder_without_speakers(tmp_path):
  write(tmp_path, 'on/1.WAV', 'off/2.wav')
  source = AudioFolder(tmp_path, r'(?P<keyword>\w+)/(?P<speaker>x)?.*')
  assert labels(source) == [
    ('off/2', 'off', 'unknown', None),
    ('on/1', 'on', 'unknown', None),
  ]


def test_audio_is_that_of_the_file(tmp_path):
  write(tmp_path, 'on/ann-1.wav', 'on/ann-2.wav', 'on/ann-3.wav')
  for i, recording in enumerate(recordings(AudioFolder(tmp_path, PATTERN))):
    audio = recording.read()
    assert audio.shape == (16_000,)
    assert set(audio[7_990:8_010]) == {i} and not audio[:7_990].any()


def test_files_that_do_not_match_are_counted(tmp_path, caplog):
  write(tmp_path, 'on/ann-1.wav', 'on/other.wav', 'noise.flac', '.x/a-1.wav')
  (tmp_path / 'README.md').touch()
  assert len(recordings(AudioFolder(tmp_path, PATTERN))) == 1
  assert '2 of 3 audio files' in caplog.text


def test_key_tells_files_by_name_size_and_time(tmp_path):
  write(tmp_path, 'on/ann-1.wav', 'on/ann-2.wav', 'other.wav')
  first = AudioFolder(tmp_path, PATTERN).key()
  assert AudioFolder(tmp_path, PATTERN).key() == first
  assert AudioFolder(tmp_path, PATTERN + '|()').key() != first
  (tmp_path / 'other.wav').unlink()
  assert AudioFolder(tmp_path, PATTERN).key() == first
  soundfile.write(tmp_path / 'on/ann-2.wav', np.ones(20, np.int16), 16_000)
  second = AudioFolder(tmp_path, PATTERN).key()
  assert second != first
  (tmp_path / 'on/ann-2.wav').rename(tmp_path / 'on/ann-3.wav')
  assert AudioFolder(tmp_path, PATTERN).key() != second


@pytest.mark.parametrize(
  ('pattern', 'problem'),
  [
    (None, r'--audio_pattern is needed'),
    ('', r'--audio_pattern is needed'),
    ('(?P<keyword>', r'--audio_pattern=\(\?P<keyword>: is no regular'),
    ('(.*)', r'--audio_pattern=\(\.\*\): must have the named group keyword'),
    ('(?P<keyword>.)(?P<age>.)', r'--audio_pattern=.*and no others'),
    ('(?P<keyword>x+)', r'--audio_pattern=.* none of 1, for .* on/ann-1.wav'),
    ('(?P<keyword>x*).*', r'--audio_pattern=.*matches none of 1'),
  ],
)
def test_bad_pattern_is_refused(tmp_path, pattern, problem):
  write(tmp_path, 'on/ann-1.wav')
  with pytest.raises(InputError, match=f'^{problem}') as raised:
    AudioFolder(tmp_path, pattern)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('source', [ArabicSpeechCommands, FreeSpokenDigits])
def test_bad_folder_is_refused(tmp_path, source):
  layout = '<take>.wav or .flac'
  with pytest.raises(InputError, match=f'^--data_dir is needed.*{layout}'):
    source(None)
  with pytest.raises(InputError, match=f'^--data_dir=.*absent.*{layout}'):
    source(tmp_path / 'absent')
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(InputError, match=f'^--data_dir=.*empty.*{layout}'):
    source(empty)
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(InputError, match='^--data_dir.*file.*Not a directory'):
    source(file)
  other = write(tmp_path / 'other', 'a/b.wav')
  problem = f'^--data_dir=.*other.*{layout}; none of 1 .* a/b.wav'
  with pytest.raises(InputError, match=problem):
    source(other)


def test_one_utterance_in_two_files_is_refused(tmp_path):
  write(tmp_path, 'on/ann-1.wav', 'on/ann-1.flac')
  with pytest.raises(InputError, match='on/ann-1.flac and on/ann-1.wav'):
    AudioFolder(tmp_path, PATTERN)


def test_links_are_followed(tmp_path):
  write(tmp_path / 'real', 'on/ann-1.wav')
  (tmp_path / 'linked').mkdir()
  (tmp_path / 'linked' / 'off').symlink_to(tmp_path / 'real' / 'on')
  source = AudioFolder(tmp_path / 'linked', PATTERN)
  assert labels(source) == [('off/ann-1', 'off', 'ann', None)]


@pytest.mark.parametrize('target', ['absent.wav', '..'])
def test_links_to_nowhere_and_in_circles_are_refused(tmp_path, target):
  write(tmp_path, 'on/ann-1.wav')
  (tmp_path / 'on' / 'link.wav').symlink_to(target)
  with pytest.raises(InputError, match='^--data_dir: .*link.wav cannot be'):
    AudioFolder(tmp_path, PATTERN)


def test_name_that_is_not_utf_8_is_refused(tmp_path):
  write(tmp_path, 'on/ann-1.wav')
  (tmp_path / 'on/b\udcff-1.wav').touch()
  with pytest.raises(InputError, match='^--data_dir=.*UTF-8'):
    AudioFolder(tmp_path, PATTERN)
