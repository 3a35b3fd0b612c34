"""VoxCeleb1 in miniature: its layouts, its lists, and what may be wrong."""

import io
import re
import zipfile

import numpy as np
import pytest
import soundfile

from unlearn_jax.datasets import prepared
from unlearn_jax.datasets import registry
from unlearn_jax.datasets import splits
from unlearn_jax.datasets import trials
from unlearn_jax.datasets import voxceleb1
from unlearn_jax.types import InputError

# The test archive of the release holds the speakers id10270 to id10309.
SPEAKERS = {'id10001': 'dev', 'id10003': 'dev', 'id10270': 'test'}
VIDEOS = ('1zcIwhmdeo4', 'na8-QEFmj44', 'x_6uYqmx31k')
FIRST = 'id10001/1zcIwhmdeo4/00001'


def make_audio(path):
  """Noise of 0.1 to 0.6 s, another for every path."""
  rng = np.random.default_rng(list(path.encode()))
  return rng.integers(-9_000, 9_000, rng.integers(1_600, 9_600)).astype(
    np.int16
  )


def encode(audio):
  file = io.BytesIO()
  soundfile.write(file, audio, 16_000, format='WAV')
  return file.getvalue()


@pytest.fixture(scope='module')
def release():
  """Contents of every wav file: 3 speakers, 3 videos, 2 utterances."""
  paths = [
    f'{speaker}/{video}/{utterance:05}.wav'
    for speaker in SPEAKERS
    for video in VIDEOS
    for utterance in (1, 12)
  ]
  return {path: encode(make_audio(path)) for path in paths}


def iden_split(paths):
  part = dict(zip(VIDEOS, (1, 2, 3), strict=True))
  lines = [f'{part[path.split("/")[1]]} {path}\n' for path in paths]
  np.random.default_rng(0).shuffle(lines)  # Nor is the release's in order.
  return ''.join(lines)


def write_folder(root, files):
  for path, data in files.items():
    (root / 'wav' / path).parent.mkdir(parents=True, exist_ok=True)
    (root / 'wav' / path).write_bytes(data)


def write_archives(root, files, parts=False):
  for name in ('dev', 'test'):
    with zipfile.ZipFile(
      root / f'vox1_{name}_wav.zip', 'w', zipfile.ZIP_DEFLATED
    ) as archive:
      archive.writestr('wav/', b'')
      for path in reversed(files):
        if SPEAKERS[path[:7]] == name:
          archive.writestr(f'wav/{path}', files[path])
  if parts:
    whole = root / 'vox1_dev_wav.zip'
    data = whole.read_bytes()
    ends = [0, 100, len(data) // 2, len(data) - 30, len(data)]
    for i, letter in enumerate('abcd'):
      part = root / f'vox1_dev_wav_parta{letter}'
      part.write_bytes(data[ends[i] : ends[i + 1]])
    whole.unlink()


def write(root, files, layout='folder', lists=None):
  root.mkdir(exist_ok=True)
  text = iden_split(files) if lists is None else lists
  (root / 'iden_split.txt').write_text(text)
  if layout == 'folder':
    write_folder(root, files)
  else:
    write_archives(root, files, parts=layout == 'parts')
  return root


def load(root, tmp_path, **kwargs):
  return registry.load(
    'voxceleb1',
    cache_dir=tmp_path / 'cache',
    data_dir=root,
    progress=False,
    **kwargs,
  )


LAYOUTS = ('folder', 'zip', 'parts')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_labels_and_audio(tmp_path, release, layout):
  corpus = load(write(tmp_path / 'vox', release, layout), tmp_path)
  ids = sorted(path.removesuffix('.wav') for path in release)
  assert corpus.utterance_id.tolist() == ids
  assert corpus.keywords == ('speech',)
  assert corpus.speakers == tuple(SPEAKERS)
  assert corpus.sessions == VIDEOS
  for row, name in enumerate(ids):
    speaker, video, _ = name.split('/')
    assert corpus.speakers[corpus.speaker[row]] == speaker
    assert corpus.sessions[corpus.session[row]] == video
    assert corpus.official_split[row] == VIDEOS.index(video)
  assert corpus.num_samples is None
  expected = [make_audio(f'{name}.wav') for name in ids]
  assert corpus.lengths.tolist() == [len(audio) for audio in expected]
  assert len(set(corpus.lengths.tolist())) > 10
  rows = np.array([17, 0, 5, 5])
  found = corpus.read_utterances(rows)
  for row, audio in zip(rows, found, strict=True):
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, expected[row])
  with pytest.raises(ValueError, match='use read_utterances'):
    corpus.read_audio(rows)


def test_layouts_are_one_corpus(tmp_path, release):
  fingerprints = {
    load(write(tmp_path / layout, release, layout), tmp_path).fingerprint
    for layout in LAYOUTS
  }
  assert len(fingerprints) == 1


def test_second_load_opens_neither_archives_nor_lists(
  tmp_path, release, monkeypatch
):
  root = write(tmp_path / 'vox', release, 'parts')
  first = load(root, tmp_path)
  monkeypatch.delattr(voxceleb1, '_open_archive')
  monkeypatch.delattr(voxceleb1, 'read_iden_split')
  assert load(root, tmp_path).fingerprint == first.fingerprint


def test_splits_and_trials(tmp_path, release):
  corpus = load(write(tmp_path / 'vox', release), tmp_path)
  for kind in ('official', 'session'):
    split = splits.split(corpus, kind, seed=0)
    label, names = corpus.labels('sid')
    splits.check_classes(label, split, names, kind=kind)
  np.testing.assert_array_equal(split.test, np.flatnonzero(corpus.session == 2))
  path = tmp_path / 'veri_test.txt'
  path.write_text(
    f'1 {FIRST}.wav id10001/na8-QEFmj44/00012.wav\n'
    f'0 {FIRST}.wav id10270/na8-QEFmj44/00012.wav\n'
  )
  found = trials.read_trials(path, corpus.utterance_id)
  same = corpus.speaker[found.first] == corpus.speaker[found.second]
  np.testing.assert_array_equal(found.target, same)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_missing_files_are_counted_and_named(tmp_path, release, layout):
  gone = [p for p in release if p.startswith('id10003')]
  gone.append(f'{FIRST}.wav')
  files = {k: v for k, v in release.items() if k not in gone}
  root = write(tmp_path / 'vox', files, layout, iden_split(release))
  with pytest.raises(InputError) as raised:
    load(root, tmp_path)
  message = str(raised.value)
  assert re.fullmatch(
    f'--data_dir={root}: 7 of the 18 files that iden_split.txt lists are '
    r'missing, such as (id1000\S+\.wav(, )?){3}; speakers who are wholly '
    'missing: 1, such as id10003. --skip_bad_audio leaves such files out.',
    message,
  )
  assert '\n' not in message


def test_missing_files_may_be_left_out(tmp_path, release, caplog):
  files = {k: v for k, v in release.items() if not k.startswith('id10270')}
  root = write(tmp_path / 'vox', files, lists=iden_split(release))
  corpus = load(root, tmp_path, skip_bad_audio=True)
  assert len(corpus) == 12 and corpus.speakers == ('id10001', 'id10003')
  assert 'bad recordings left out: 6 of 18.' in caplog.text
  (folder,) = (p.parent for p in (tmp_path / 'cache').rglob('labels.npz'))
  assert sorted(prepared.left_out(folder)) == [
    f'{path}: is listed in iden_split.txt and is missing.'
    for path in sorted(release)
    if path.startswith('id10270')
  ]


def test_no_test_archive(tmp_path, release):
  root = write(tmp_path / 'vox', release, 'zip')
  (root / 'vox1_test_wav.zip').unlink()
  with pytest.raises(InputError, match='6 of the 18 .* such as id10270'):
    load(root, tmp_path)


def test_files_that_are_not_listed_are_left_out(tmp_path, release, caplog):
  listed = [path for path in release if not path.startswith(FIRST)]
  root = write(tmp_path / 'vox', release, 'zip', iden_split(listed))
  assert len(load(root, tmp_path)) == 17
  assert (
    f'1 wav files are not in iden_split.txt and are left out, such as {FIRST}'
    in caplog.text
  )


@pytest.mark.parametrize(
  ('line', 'problem'),
  [
    ('4 id10001/1zcIwhmdeo4/00001.wav', 'line 3 must be such as'),
    ('1 id10001/1zcIwhmdeo4/1.wav', "got '1 id10001/1zcIwhmdeo4/1.wav'"),
    ('1 id10001/../00001.m4a', 'line 3 must be such as'),
    ('id10001/1zcIwhmdeo4/00001.wav', 'of 1 for training, 2 for validation'),
    ('nonsense ' * 50, 'line 3 must be such as'),
    ('1 id10001/1zcIwhmdeo4/00012.wav', 'line 3 repeats id10001/1zcIw'),
  ],
)
def test_malformed_list(tmp_path, release, line, problem):
  lists = f'1 id10001/1zcIwhmdeo4/00012.wav\n\n{line}\n'
  root = write(tmp_path / 'vox', release, lists=lists)
  with pytest.raises(InputError) as raised:
    load(root, tmp_path)
  message = str(raised.value)
  assert message.startswith(f'{root}/iden_split.txt: line 3 ')
  assert problem in message and '\n' not in message and len(message) < 400


def test_empty_list(tmp_path, release):
  with pytest.raises(InputError, match='must list the utterances'):
    load(write(tmp_path / 'vox', release, lists='\n'), tmp_path)


def test_what_is_not_there(tmp_path, release):
  problem = '^--data_dir is needed for voxceleb1: must name .*iden_split.txt'
  with pytest.raises(InputError, match=problem):
    load(None, tmp_path)
  with pytest.raises(InputError, match='^--data_dir=.*absent: does not exist'):
    load(tmp_path / 'absent', tmp_path)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match='has no wav file and no archive'):
    load(tmp_path / 'empty', tmp_path)
  root = write(tmp_path / 'no list', release)
  (root / 'iden_split.txt').unlink()
  with pytest.raises(InputError, match='must hold iden_split.txt'):
    load(root, tmp_path)
  root = write(tmp_path / 'parts', release, 'parts')
  (root / 'vox1_dev_wav_partac').unlink()
  problem = 'all 4 parts of vox1_dev_wav.zip; lacks vox1_dev_wav_partac'
  with pytest.raises(InputError, match=problem):
    load(root, tmp_path)


@pytest.mark.parametrize('layout', ['zip', 'parts'])
def test_archive_cut_short(tmp_path, release, layout):
  root = write(tmp_path / 'vox', release, layout)
  last = sorted(root.glob('vox1_dev_wav*'))[-1]
  last.write_bytes(last.read_bytes()[:-20])
  problem = f'^--data_dir: .*{last.name} is no archive, or is damaged'
  with pytest.raises(InputError, match=problem):
    load(root, tmp_path)


def test_damage_inside_an_archive(tmp_path, release):
  root = write(tmp_path / 'vox', release, 'zip')
  path = root / 'vox1_test_wav.zip'
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    member = archive.infolist()[3]
  data[member.header_offset + 500] ^= 0xFF
  path.write_bytes(data)
  problem = f'^{path}: {member.filename}: is damaged .*--skip_bad_audio'
  with pytest.raises(InputError, match=problem):
    load(root, tmp_path)
  assert len(load(root, tmp_path, skip_bad_audio=True)) == 17


@pytest.mark.parametrize('layout', ['folder', 'zip'])
def test_utterance_shorter_than_a_frame(tmp_path, release, layout):
  short = {f'{FIRST}.wav': encode(np.ones(399, np.int16))}
  root = write(tmp_path / 'vox', release | short, layout)
  problem = f'{FIRST}.wav: lasts 399 samples at 16 kHz; must be at least 400'
  with pytest.raises(InputError, match=problem):
    load(root, tmp_path)
  assert len(load(root, tmp_path, skip_bad_audio=True)) == 17


def test_changed_archive_is_prepared_again(tmp_path, release):
  root = write(tmp_path / 'vox', release, 'zip')
  first = load(root, tmp_path)
  write(root, release | {f'{FIRST}.wav': encode(make_audio('other'))}, 'zip')
  assert load(root, tmp_path).fingerprint != first.fingerprint
