"""Speech Commands on made folders, archives and a server in this process."""

import functools
import hashlib
import http.server
import io
import itertools
import os
import pathlib
import tarfile
import threading
import urllib.error

import numpy as np
import pytest
import soundfile
import tensorflow_datasets

from unlearn_jax.datasets import registry
from unlearn_jax.datasets import speech_commands
from unlearn_jax.datasets.speech_commands import SpeechCommands
from unlearn_jax.datasets.speech_commands import TEN_WORDS
from unlearn_jax.types import InputError

OTHERS = ('bed', 'cat', 'zero')
SPEAKERS = [f'{i:08x}' for i in range(10)]
ARCHIVE = 'speech_commands_v0.02.tar.gz'
NOISE_SECONDS = {'hum': 12, 'tap': 15}


def wav(audio):
  file = io.BytesIO()
  soundfile.write(file, audio, 16_000, format='WAV')
  return file.getvalue()


def files():
  """Two takes a word and speaker: 6, 1 and 3 speakers in the three splits."""
  rng = np.random.default_rng(0)
  made = {}
  words = (*TEN_WORDS, *OTHERS)
  for word, speaker, take in itertools.product(words, SPEAKERS, range(2)):
    audio = rng.integers(-9, 9, 200).astype(np.int16)
    made[f'{word}/{speaker}_nohash_{take}.wav'] = wav(audio)
  lists = {
    'validation_list.txt': SPEAKERS[6:7],
    'testing_list.txt': SPEAKERS[7:],
  }
  for name, speakers in lists.items():
    paths = [path for path in made if path.split('/')[-1][:8] in speakers]
    made[name] = '\n'.join(paths).encode()
  for name, seconds in NOISE_SECONDS.items():
    ramp = np.arange(16_000 * seconds) % 30_011  # No two cuts are the same.
    made[f'_background_noise_/{name}.wav'] = wav(ramp.astype(np.int16))
  made['_background_noise_/README.md'] = b'about'
  made['LICENSE'] = b'licence'
  return made


def write_folder(root, made):
  for path, data in made.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
  return root


def write_archive(path, made):
  with tarfile.open(path, 'w:gz', compresslevel=1) as archive:
    folder = tarfile.TarInfo('./yes')
    folder.type = tarfile.DIRTYPE
    archive.addfile(folder)
    for name in reversed(made):  # Lists and noise first, ids out of order.
      info = tarfile.TarInfo(f'./{name}')
      info.size = len(made[name])
      archive.addfile(info, io.BytesIO(made[name]))
  return path


@pytest.fixture(scope='module')
def made():
  return files()


@pytest.fixture(scope='module')
def folder(made, tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp('unpacked'), made)


@pytest.fixture(scope='module')
def archive(made, tmp_path_factory):
  return write_archive(tmp_path_factory.mktemp('packed') / ARCHIVE, made)


def load(task, data_dir, cache_dir):
  name = 'speech_commands' + {'35': '', '12': '/12'}[task]
  return registry.load(
    name, cache_dir=cache_dir, data_dir=data_dir, progress=False
  )


def recordings(place, task='12'):
  count, found = SpeechCommands(place, task).recordings(download=None)
  found = [(r, r.read()) for r in found]
  assert count == len(found)
  return found


def test_all_words(folder, made, tmp_path):
  corpus = load('35', folder, tmp_path)
  assert corpus.name == 'speech_commands'
  assert len(corpus) == 13 * 10 * 2
  assert corpus.keywords == tuple(sorted((*TEN_WORDS, *OTHERS)))
  assert corpus.speakers == tuple(SPEAKERS)
  ids = [path[:-4] for path in sorted(made) if '_nohash_' in path]
  assert corpus.utterance_id.tolist() == ids
  for row in (0, 100, 259):
    path = corpus.utterance_id[row]
    word, speaker = path.removesuffix(path[-9:]).split('/')
    assert corpus.keywords[corpus.keyword[row]] == word
    assert corpus.speakers[corpus.speaker[row]] == speaker
    split = np.digitize(SPEAKERS.index(speaker), [6, 7])
    assert corpus.official_split[row] == split
    samples, _ = soundfile.read(folder / f'{path}.wav', dtype='int16')
    audio = corpus.read_audio(np.array([row]))[0]
    np.testing.assert_array_equal(audio[7_900:8_100], samples)
  np.testing.assert_array_equal(
    np.bincount(corpus.official_split), np.array([6, 1, 3]) * 26
  )


@pytest.mark.parametrize('task', ['35', '12'])
def test_archive_and_folder_are_one_corpus(folder, archive, tmp_path, task):
  unpacked = load(task, folder, tmp_path)
  for place in (archive, archive.parent):
    packed = load(task, place, tmp_path)
    assert packed.fingerprint == unpacked.fingerprint
    np.testing.assert_array_equal(packed.utterance_id, unpacked.utterance_id)
    rows = np.arange(len(packed))
    np.testing.assert_array_equal(
      packed.read_audio(rows), unpacked.read_audio(rows)
    )


def test_twelve_classes_are_balanced(folder, tmp_path):
  corpus = load('12', folder, tmp_path)
  assert corpus.name == 'speech_commands/12'
  words = *TEN_WORDS, '_unknown_', '_silence_'
  assert corpus.keywords == tuple(sorted(words))
  counts = np.zeros((12, 3), int)
  np.add.at(counts, (corpus.keyword, corpus.official_split), 1)
  np.testing.assert_array_equal(counts, np.tile([12, 2, 6], (12, 1)))


def test_unknown_class_is_of_the_other_words(folder):
  unknown = [r for r, _ in recordings(folder) if r.keyword == '_unknown_']
  ids = [r.utterance_id for r in unknown]
  assert {i.split('/')[0] for i in ids} <= set(OTHERS)
  assert {r.speaker for r in unknown} <= set(SPEAKERS)
  assert len(set(ids)) == 20
  again = [r for r, _ in recordings(folder) if r.keyword == '_unknown_']
  assert [r.utterance_id for r in again] == ids


def test_silence_of_two_splits_has_no_audio_in_common(folder, made):
  covered = {}
  for recording, audio in recordings(folder):
    if recording.keyword != '_silence_':
      continue
    assert recording.speaker == '_background_noise_'
    name, start = recording.utterance_id.split('/')[1].rsplit('_', 1)
    start = int(start)
    source, _ = soundfile.read(
      io.BytesIO(made[f'_background_noise_/{name}.wav']), dtype='int16'
    )
    np.testing.assert_array_equal(audio, source[start : start + 16_000])
    samples = covered.setdefault(
      name, np.zeros((3, NOISE_SECONDS[name] * 16_000), bool)
    )
    samples[recording.official_split, start : start + 16_000] = True
  assert set(covered) == set(NOISE_SECONDS)
  for samples in covered.values():
    assert samples.any(axis=1).all()
    assert samples.sum(axis=0).max() == 1


@pytest.mark.parametrize('missing', ['validation_list.txt', 'testing_list.txt'])
def test_folder_without_a_list_is_refused(tmp_path, made, missing):
  some = {k: v for k, v in made.items() if k != missing and 'zero' not in k}
  write_folder(tmp_path / 'data', some)
  with pytest.raises(InputError, match=f'^--data_dir=.*{missing}'):
    load('35', tmp_path / 'data', tmp_path / 'cache')


def test_bad_folders_are_refused(tmp_path, made):
  with pytest.raises(InputError, match=f'^--data_dir=.*absent.*{ARCHIVE}'):
    SpeechCommands(tmp_path / 'absent')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match=f'^--data_dir=.*empty.*{ARCHIVE}'):
    recordings(tmp_path / 'empty')
  for word, problem in ('stop', 'lacks stop'), ('_backg', 'must hold _backg'):
    some = {k: v for k, v in made.items() if not k.startswith(word)}
    write_folder(tmp_path / word, some)
    with pytest.raises(InputError, match=f'^--data_dir=.*{problem}'):
      recordings(tmp_path / word)


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.98])
def test_archive_cut_short_is_refused(tmp_path, archive, share):
  data = archive.read_bytes()
  place = tmp_path / ARCHIVE
  place.write_bytes(data[: int(share * len(data))])
  with pytest.raises(
    InputError, match='^--data_dir.*no archive, or is damaged'
  ):
    load('35', place, tmp_path / 'cache')


def test_archive_that_is_damaged_meanwhile_is_refused(tmp_path, made):
  place = write_archive(tmp_path / ARCHIVE, made)
  _, found = SpeechCommands(place).recordings(download=None)
  os.truncate(place, place.stat().st_size // 2)
  with pytest.raises(InputError, match='is no archive, or is damaged'):
    list(found)


class _Server(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


@pytest.fixture
def server(archive, monkeypatch):
  handler = functools.partial(_Server, directory=archive.parent)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()


def test_download(server, folder, tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(speech_commands, 'URL', f'{server}/{ARCHIVE}')
  downloaded = load('35', None, tmp_path)
  assert capfd.readouterr() == ('', '')
  assert downloaded.fingerprint == load('35', folder, tmp_path).fingerprint


def test_archive_is_downloaded_once(server, tmp_path, monkeypatch):
  monkeypatch.setattr(speech_commands, 'URL', f'{server}/{ARCHIVE}')
  assert len(load('35', None, tmp_path)) == 260
  monkeypatch.delattr('urllib.request.urlopen')
  monkeypatch.delattr('requests.Session.get')
  assert len(load('12', None, tmp_path)) == 240


def test_failed_download_is_one_line(server, tmp_path, monkeypatch):
  monkeypatch.setattr(speech_commands, 'URL', f'{server}/absent.tar.gz')
  problem = r'^http://127.*absent.tar.gz could not be downloaded .*404.*--data'
  with pytest.raises(InputError, match=problem):
    load('35', None, tmp_path)


def test_no_network_is_one_line(tmp_path, monkeypatch):
  def urlopen(*args, **kwargs):
    raise urllib.error.URLError(OSError(-2, 'Name or\nservice not known'))

  monkeypatch.setattr('urllib.request.urlopen', urlopen)
  with pytest.raises(InputError, match='could not be downloaded') as raised:
    load('35', None, tmp_path)
  assert '\n' not in str(raised.value)


def test_download_of_something_else_is_refused(server, tmp_path, monkeypatch):
  url = f'{server}/{ARCHIVE}'
  monkeypatch.setattr(speech_commands, 'URL', url)
  monkeypatch.setattr(SpeechCommands, 'DOWNLOADS', {url: (99, '0' * 64)})
  with pytest.raises(InputError, match='wrong checksum') as raised:
    load('35', None, tmp_path)
  assert '\n' not in str(raised.value)
  assert not list(tmp_path.rglob('labels.npz'))


def test_download_with_the_right_hash(server, archive, tmp_path, monkeypatch):
  data = archive.read_bytes()
  url = f'{server}/{ARCHIVE}'
  monkeypatch.setattr(speech_commands, 'URL', url)
  entry = len(data), hashlib.sha256(data).hexdigest()
  monkeypatch.setattr(SpeechCommands, 'DOWNLOADS', {url: entry})
  assert len(load('35', None, tmp_path)) == 260


def test_hash_is_the_one_that_tfds_records():
  package = pathlib.Path(tensorflow_datasets.__file__).parent
  table = package / 'datasets' / 'speech_commands' / 'checksums.tsv'
  rows = [line.split('\t') for line in table.read_text().splitlines()]
  recorded = {row[0]: (int(row[1]), row[2]) for row in rows}
  url = 'http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz'
  assert SpeechCommands.DOWNLOADS == {url: recorded[url]}
  assert speech_commands.URL == url
