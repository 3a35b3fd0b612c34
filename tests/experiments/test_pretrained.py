"""Whole jobs on models in Hugging Face format: in, unlearned, and out."""

import numpy as np
import pretrained_folders
import pytest
import soundfile

from unlearn_jax.datasets import crops
from unlearn_jax.models.pretrained import folder
from unlearn_jax.reporting import records
from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError

NAME = 'hubert_large'


@pytest.fixture(scope='module')
def encoder(run_job, tmp_path_factory):
  """A folder without a classifier."""
  path = tmp_path_factory.mktemp('models') / 'encoder'
  run_job(
    'export', '--size=small-hubert', f'--folder={path}', f'--workdir={path}'
  )
  (path / 'preprocessor_config.json').write_text('{"do_normalize": true}')
  return path


@pytest.fixture(scope='module')
def trained(run_job, encoder, tmp_path_factory):
  """The folder of a job that fine-tuned the encoder and unlearned."""
  workdir = tmp_path_factory.mktemp('job') / 'workdir'
  run_job(
    'kws_unlearn',
    f'--model=hf:{encoder}',
    '--forget=sample:10%',
    '--methods=npo,lora:scrub',
    '--epochs=1',
    f'--workdir={workdir}',
  )
  return workdir


def test_records_hold_every_method(trained):
  cards = records.read(trained / 'records.jsonl')
  methods = {c.provenance['method'] for c in cards}
  assert methods == {*('original', 'retrain', 'npo', 'lora:scrub')}
  assert {c.provenance['network'] for c in cards} == {
    cards[0].provenance['network']
  }
  assert cards[0].provenance['network'].startswith('hf:')
  html = (trained / 'report' / 'index.html').read_text()
  assert 'data:audio/wav;base64,' in html
  assert 'layers[1]' in html


def test_a_run_becomes_a_folder_and_an_original_model(
  run_job, encoder, trained, tmp_path
):
  out = tmp_path / 'npo'
  run_job(
    'export',
    f'--run={trained}/seed_0/npo',
    f'--folder={out}',
    f'--workdir={tmp_path}',
  )
  read = folder.read(str(out))
  assert read.has_head
  assert read.network.class_names == ('down', 'no', 'up', 'yes')
  assert read.preprocessor == {'do_normalize': True}
  # What the folder says is what the job said of the run.
  workdir = tmp_path / 'again'
  arguments = (
    f'--model=hf:{out}',
    '--forget=sample:10%',
    '--epochs=1',
    f'--workdir={workdir}',
  )
  with pytest.raises(InputError, match='--encoder must name the encoder'):
    run_job('kws_unlearn', *arguments, '--methods=npo')
  run_job('kws_unlearn', *arguments, '--methods=npo', f'--encoder={encoder}')
  cards = [
    {
      c.name: c.value
      for c in records.read(path / 'records.jsonl')
      if c.provenance['method'] == method
    }
    for path, method in ((trained, 'npo'), (workdir, 'original'))
  ]
  for name in ('accuracy.test', 'accuracy.forget', 'accuracy.retain'):
    assert cards[0][name] == cards[1][name]


def test_an_existing_folder_is_kept(run_job, trained, tmp_path):
  (tmp_path / 'mine').mkdir()
  arguments = f'--run={trained}/seed_0/npo', f'--folder={tmp_path / "mine"}'
  arguments += (f'--workdir={tmp_path}',)
  with pytest.raises(InputError, match='exists; give --overwrite'):
    run_job('export', *arguments)
  assert not list((tmp_path / 'mine').iterdir())
  run_job('export', *arguments, '--overwrite')
  assert folder.read(str(tmp_path / 'mine')).has_head


def test_speakers_are_heard_too(run_job, encoder, tmp_path):
  run_job(
    'sid_train',
    f'--model=hf:{encoder}',
    '--epochs=1',
    '--compute_dtype=bfloat16',
    '--remat',
    f'--workdir={tmp_path}',
  )
  model = tmp_path / 'seed_0' / 'original' / 'model'
  assert model.is_dir()


def test_recordings_of_any_length_in_buckets(
  run_job, encoder, tmp_path, monkeypatch
):
  """Tones of two pitches and two lengths."""
  for i in range(24):
    word, seconds = ('low', 'high')[i % 2], (0.3, 0.9)[i % 3 > 0]
    time = np.arange(int(16_000 * seconds)) / 16_000
    audio = np.sin(2 * np.pi * (200, 900)[i % 2] * time)
    path = tmp_path / 'data' / word / f's{i % 3}_{i}.wav'
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * audio, 16_000)
  arguments = (
    f'--model=hf:{encoder}',
    '--dataset=audio_folder/full',
    f'--data_dir={tmp_path / "data"}',
    '--audio_pattern=(?P<keyword>[a-z]+)/(?P<speaker>s[0-9])_(?P<take>[0-9]+).wav',
    '--length_buckets',
    '--epochs=1',
  )
  seen, calls = [], crops.Examples.calls

  def spy(self, *args):
    for forget, retain, examples in calls(self, *args):
      needs = examples['waveform'].lengths[retain.rows[retain.mask > 0]].max()
      seen.append((examples['waveform'].crop_frames, int(needs)))
      yield forget, retain, examples

  monkeypatch.setattr(crops.Examples, 'calls', spy)
  run_job(
    'kws_train', *arguments, '--batch_size=4', f'--workdir={tmp_path / "w"}'
  )
  path = tmp_path / 'w' / 'seed_0' / 'original' / 'model'
  assert checkpoint.describe(path)['settings']['length_buckets']
  # Crops are as long as the longest of a step.
  assert {*seen} == {(4_800, 4_800), (14_400, 14_400)}
  with pytest.raises(
    InputError, match='--length_buckets: must not be given with --dp_max_norm'
  ):
    run_job(
      'kws_train', *arguments, '--dp_max_norm=1', f'--workdir={tmp_path / "v"}'
    )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'model': 'tc_resnet8', 'length_buckets': 'true'},
      '--length_buckets: must not be given with --model=tc_resnet8, which',
    ),
    ({'model': 'hf:nowhere/at/all'}, 'nowhere/at/all: must be a folder with'),
    ({'head': 'aam'}, '--head=aam: must be softmax for --model=hf:'),
    ({'frames': 'shuffled'}, '--frames=shuffled: must be ordered for a model'),
    ({'encoder': 'x'}, '--encoder=x: must not be given, since .* no classif'),
  ],
)
def test_what_is_refused(run_job, encoder, tmp_path, changes, message):
  given = {'model': f'hf:{encoder}'} | changes
  arguments = [f'--{name}={value}' for name, value in given.items()]
  with pytest.raises(InputError, match=message):
    run_job('kws_train', *arguments, f'--workdir={tmp_path / "w"}')


def test_another_number_of_classes(run_job, tmp_path):
  pretrained_folders.make(tmp_path / 'a', NAME, classes=7)
  with pytest.raises(InputError, match='has 7 classes, the corpus has 4'):
    run_job('kws_train', f'--model=hf:{tmp_path}/a', f'--workdir={tmp_path}/w')


@pytest.mark.parametrize(
  'given', [('--folder=x',), ('--folder=x', '--run=a', '--size=small-hubert')]
)
def test_a_folder_is_of_a_run_or_fresh(run_job, tmp_path, given):
  with pytest.raises(InputError, match='and either --run or --size'):
    run_job('export', *given, f'--workdir={tmp_path}')


def test_networks_by_name_are_not_exported(run_job, tmp_path):
  run_job('kws_train', f'--workdir={tmp_path}/w')
  with pytest.raises(InputError, match='must be one of --model=hf:'):
    run_job(
      'export',
      f'--run={tmp_path}/w/seed_0/original',
      f'--folder={tmp_path}/o',
      f'--workdir={tmp_path}',
    )
  assert not (tmp_path / 'o').exists()
