"""Every corpus by its name: real recordings, the cache, and bad input."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import soxr

from unlearn_jax.datasets import registry
from unlearn_jax.datasets import splits
from unlearn_jax.types import InputError

NAMES = (
  'espeak_commands',
  'espeak_commands/tiny',
  'espeak_commands/speakers',
  'arabic_speech_commands',
  'free_spoken_digits',
  'free_spoken_digits/30_takes',
  'speech_commands',
  'speech_commands/12',
  'voxceleb1',
  'audio_folder',
  'audio_folder/full',
  'digit_images',
)
PATTERN = r'(?P<keyword>\w+)/(?P<speaker>\w+)_NO_(?P<take>\d+)\.flac'


@pytest.fixture
def arabic(shared_data, tmp_path):
  """Copies 60 real recordings: 3 keywords, 5 speakers, 4 takes."""
  source = shared_data / 'arabic_speech_commands' / 'dataset'
  for keyword in ('right', 'left', 'stop'):
    target = tmp_path / 'arabic' / 'dataset' / keyword
    target.mkdir(parents=True)
    files = sorted((source / keyword).iterdir())
    for file in [file for i, file in enumerate(files[:50]) if i % 10 < 4]:
      shutil.copy(file, target)
  return tmp_path / 'arabic'


@pytest.fixture
def digits(shared_data, tmp_path):
  source = shared_data / 'free_spoken_digit_dataset' / 'recordings'
  (tmp_path / 'digits').mkdir()
  for digit in (0, 9):
    for take in (3, 4, 5, 10):
      for speaker in ('jackson', 'theo'):
        name = f'{digit}_{speaker}_{take}.flac'
        shutil.copy(source / name, tmp_path / 'digits')
  return tmp_path / 'digits'


@pytest.fixture
def cache_dir(tmp_path):
  return tmp_path / 'cache'


def load(name, cache_dir, **kwargs):
  return registry.load(name, cache_dir=cache_dir, progress=False, **kwargs)


def prepared(cache_dir):
  return sorted(path.parent for path in cache_dir.rglob('labels.npz'))


def test_names():
  assert registry.names() == NAMES


def test_real_recordings_at_16_khz_are_kept_bit_for_bit(arabic, cache_dir):
  corpus = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  assert corpus.name == 'arabic_speech_commands'
  assert len(corpus) == 60
  assert corpus.keywords == ('left', 'right', 'stop')
  assert len(corpus.speakers) == 5
  assert sorted(corpus.utterance_id) == corpus.utterance_id.tolist()
  assert corpus.sessions == ('01', '02', '03', '04')
  audio = corpus.read_audio(np.arange(60))
  for row, name in enumerate(corpus.utterance_id):
    expected, _ = soundfile.read(
      arabic / 'dataset' / f'{name}.flac', dtype='int16'
    )
    np.testing.assert_array_equal(audio[row], expected)


def test_real_recordings_at_8_khz_are_resampled(digits, cache_dir):
  corpus = load('free_spoken_digits', cache_dir, data_dir=digits)
  np.testing.assert_array_equal(np.bincount(corpus.official_split), [8, 0, 8])
  for row, name in enumerate(corpus.utterance_id):
    file = digits / f'{name}.flac'
    slow, rate_hz = soundfile.read(file, dtype='float64')
    assert rate_hz == 8_000 and len(slow) <= 8_000
    expected = soxr.resample(slow, 8_000, 16_000, quality='VHQ')
    start = (16_000 - len(expected)) // 2
    audio = corpus.read_audio(np.array([row]))[0] / 32_768
    found = audio[start : start + len(expected)]
    # Both resamplers are flat up to 91 % of 4 kHz; speech has little above.
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.02
    assert not audio[:start].any() and not audio[start + len(expected) :].any()


def test_place_of_the_folder_does_not_count(arabic, cache_dir):
  first = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  within = load(
    'arabic_speech_commands', cache_dir, data_dir=arabic / 'dataset'
  )
  moved = arabic.parent / 'moved'
  arabic.rename(moved)
  last = load('arabic_speech_commands', cache_dir, data_dir=moved)
  assert first.fingerprint == within.fingerprint == last.fingerprint
  assert len(prepared(cache_dir)) == 1


def test_audio_folder_gives_the_same_recordings(arabic, cache_dir):
  corpus = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  dataset = arabic / 'dataset'
  other = load('audio_folder', cache_dir, data_dir=dataset, pattern=PATTERN)
  assert other.fingerprint == corpus.fingerprint


def test_whole_digits_are_the_files_samples(digits, cache_dir):
  corpus = load(
    'audio_folder/full',
    cache_dir,
    data_dir=digits,
    pattern=r'(?P<keyword>.)_(?P<speaker>\w+)_(?P<take>\d+)\.flac',
  )
  assert corpus.name == 'audio_folder/full' and corpus.num_samples is None
  assert corpus.sessions == ('10', '3', '4', '5')
  rows = np.arange(len(corpus))
  for row, audio in zip(rows, corpus.read_utterances(rows), strict=True):
    file = digits / f'{corpus.utterance_id[row]}.flac'
    assert len(audio) == corpus.lengths[row] == 2 * soundfile.info(file).frames


def test_session_split_of_real_recordings(shared_data, tmp_path, cache_dir):
  """Of ten takes the last two are for test and the one before to validate."""
  source = shared_data / 'arabic_speech_commands' / 'dataset' / 'left'
  (tmp_path / 'left').mkdir()
  for file in sorted(source.iterdir())[:30]:  # Three speakers.
    shutil.copy(file, tmp_path / 'left')
  corpus = load('arabic_speech_commands', cache_dir, data_dir=tmp_path)
  split = splits.split(corpus, 'session', seed=0)
  for part, takes in (
    ('training', range(1, 8)),
    ('validation', [8]),
    ('test', [9, 10]),
  ):
    ids = corpus.utterance_id[getattr(split, part)]
    assert sorted(int(i[-2:]) for i in ids) == sorted([*takes] * 3)


def test_warm_start_reads_no_audio(arabic, cache_dir):
  """Nor does it import what could: a fresh process has it all blocked."""
  load('arabic_speech_commands', cache_dir, data_dir=arabic)
  program = f"""
    import sys
    sys.modules['tensorflow_datasets'] = None
    sys.modules['array_record'] = None
    from unlearn_jax.datasets import registry
    from unlearn_jax.datasets import audio_files
    del audio_files.read_clip, audio_files.decode
    corpus = registry.load('arabic_speech_commands',
                           cache_dir={str(cache_dir)!r},
                           data_dir={str(arabic)!r})
    print(len(corpus), corpus.fingerprint)
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(program)],
    capture_output=True,
    text=True,
    check=True,
  )
  corpus = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  assert done.stdout.split() == ['60', corpus.fingerprint]


@pytest.mark.parametrize('change', ['contents', 'time', 'new', 'gone'])
def test_changed_folder_is_prepared_again(arabic, cache_dir, change):
  first = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  file = sorted((arabic / 'dataset' / 'left').iterdir())[0]
  count = 60
  if change == 'contents':
    soundfile.write(file, np.ones(16_000, np.int16), 16_000)
  elif change == 'time':
    os.utime(file, ns=(0, 10**18))
  elif change == 'new':
    shutil.copy(file, file.with_name('00000001_NO_99.flac'))
    count = 61
  else:
    file.unlink()
    count = 59
  second = load('arabic_speech_commands', cache_dir, data_dir=arabic)
  assert len(second) == count
  assert (second.fingerprint == first.fingerprint) == (change == 'time')
  assert len(prepared(cache_dir)) == 2


def test_preparation_with_skipped_files_is_not_a_full_one(
  arabic, cache_dir, caplog
):
  kwargs = {'cache_dir': cache_dir, 'data_dir': arabic}
  file = sorted((arabic / 'dataset' / 'left').iterdir())[0]
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(InputError, match=f'^{file}: .*--skip_bad_audio'):
    load('arabic_speech_commands', **kwargs)
  skipped = load('arabic_speech_commands', skip_bad_audio=True, **kwargs)
  assert len(skipped) == 59
  assert f'left/{file.stem}' not in skipped.utterance_id
  caplog.clear()
  load('arabic_speech_commands', skip_bad_audio=True, **kwargs)
  assert 'bad recordings left out: 1.' in caplog.text
  with pytest.raises(InputError, match=f'^{file}: '):
    load('arabic_speech_commands', **kwargs)


def test_full_corpus_serves_where_bad_files_may_be_skipped(arabic, cache_dir):
  load('arabic_speech_commands', cache_dir, data_dir=arabic)
  corpus = load(
    'arabic_speech_commands', cache_dir, data_dir=arabic, skip_bad_audio=True
  )
  assert len(corpus) == 60
  assert len(prepared(cache_dir)) == 1


@pytest.mark.parametrize(
  ('name', 'kwargs', 'problem'),
  [
    ('nothing', {}, '--dataset=nothing: must be one of espeak_commands, '),
    ('', {}, '--dataset=: must be one of '),
    ('arabic_speech_commands', {}, '--data_dir is needed for arabic_speech'),
    ('free_spoken_digits', {}, '--data_dir is needed for free_spoken'),
    ('audio_folder', {'pattern': PATTERN}, '--data_dir is needed for audio_'),
    ('audio_folder', {'data_dir': '.'}, '--audio_pattern is needed'),
    ('audio_folder/full', {}, '--audio_pattern is needed for audio_folder'),
    ('voxceleb1', {}, '--data_dir is needed for voxceleb1'),
    ('espeak_commands', {'data_dir': 'x'}, '--data_dir=x: must not be given'),
    (
      'free_spoken_digits',
      {'data_dir': 'x', 'pattern': 'y'},
      '--audio_pattern=y: must not be given with --dataset=free_spoken_digits',
    ),
    ('speech_commands', {'data_dir': '/absent'}, '--data_dir=/absent: does no'),
  ],
)
def test_bad_input_is_one_line(name, kwargs, problem, cache_dir):
  with pytest.raises(InputError) as raised:
    load(name, cache_dir, **kwargs)
  message = str(raised.value)
  assert message.startswith(problem) and '\n' not in message
  assert not cache_dir.exists()


def test_cache_dir_that_is_a_file_is_refused(arabic, cache_dir):
  cache_dir.touch()
  with pytest.raises(InputError, match='^--cache_dir=.*must be a folder'):
    load('arabic_speech_commands', cache_dir, data_dir=arabic)


def test_missing_packages_are_named(arabic, cache_dir, monkeypatch):
  monkeypatch.delitem(
    sys.modules, 'unlearn_jax.datasets.builder', raising=False
  )
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  assert registry.names() == NAMES
  with pytest.raises(InputError, match='needs the package tensorflow_datasets'):
    load('arabic_speech_commands', cache_dir, data_dir=arabic)
