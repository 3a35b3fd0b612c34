"""Speaker identification from the shell: what a job says of a voice."""

import re

import numpy as np
import pytest
import soundfile

from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.reporting import records
from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError

SPEAKER = 'speaker_002'
METHODS = ('subspace_projection', 'embedding_scrub')
FLAGS = (
  '--split=session',
  '--model=tc_resnet8',
  '--head=softmax',
  f'--forget=speaker:{SPEAKER}',
  f'--methods={",".join(METHODS)}',
  '--preset=embedding_scrub.epochs=1',
)


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  folder = tmp_path_factory.mktemp('sid') / 'workdir'
  run_job('sid_unlearn', f'--workdir={folder}', *FLAGS)
  return folder


def test_classes_are_speakers(workdir):
  description = checkpoint.describe(workdir / 'seed_0' / 'original' / 'model')
  assert description['classes'] == [f'speaker_{i:03}' for i in range(5)]
  assert description['settings']['task'] == 'sid'
  outcome = outcomes.load(workdir / 'seed_0' / 'original' / 'outcome.npz')
  assert outcome.logits['test'].shape == (20, 5)  # The last of five takes.
  assert outcome.logits['forget'].shape == (12, 5)  # Three of four words.
  assert '--task=sid' in (workdir / 'flags.txt').read_text().splitlines()


def test_records_say_what_is_left_of_the_voice(workdir):
  cards = records.read(workdir / 'records.jsonl')
  found = {(c.provenance['method'], c.name): c for c in cards}
  for method in ('original', 'retrain', *METHODS):
    for name in ('eer.forgotten', 'enrolment.1', 'enrolment.5'):
      card = found[method, f'leakage.{name}']
      assert 0 <= card.value <= 1
    assert found[method, 'accuracy.test_forgotten'].n_examples == 4
  card = found['subspace_projection', 'leakage.enrolment.5']
  assert card.ideal == found['retrain', 'leakage.enrolment.5'].value
  assert card.noise_floor >= 0


def test_page_shows_the_voices(workdir):
  html = (workdir / 'report' / 'index.html').read_text()
  assert '<h2>Voices</h2>' in html and SPEAKER in html
  svg = (workdir / 'report' / 'voices.svg').read_text()
  assert svg in html and svg.startswith('<svg')
  table = (workdir / 'report' / 'table.md').read_text()
  for column in ('EER %', 'enrolled %'):
    assert f'| {column} |' in table


def make_utterances(folder, seed=0):
  """Voices of several heights that speak for 0.1 to 0.9 s, four times each."""
  folder.mkdir()
  rng = np.random.default_rng(seed)
  for speaker in range(3):
    for take in range(5):
      time_s = np.arange(rng.integers(1_600, 14_400)) / 16_000
      tone = np.sin(2 * np.pi * (150 + 120 * speaker) * time_s)
      noise = rng.normal(size=len(time_s))
      name = folder / f'a_s{speaker}_{take}.wav'
      soundfile.write(name, 0.3 * tone + 0.02 * noise, 16_000)
  return folder


VARYING = (
  '--dataset=audio_folder/full',
  r'--audio_pattern=(?P<keyword>a)_(?P<speaker>s\d)_(?P<take>\d)\.wav',
  '--split=session',
  '--model=tc_resnet8',
  '--crop_ms=400',
  '--batch_size=4',
)


def test_streaming_gives_the_model_that_memory_gives(run_job, tmp_path):
  data = make_utterances(tmp_path / 'data')
  made = []
  for where in ('device', 'stream'):
    folder = tmp_path / where
    run_job(
      'sid_train',
      f'--workdir={folder}',
      f'--data_dir={data}',
      f'--data={where}',
      *VARYING,
    )
    made.append(outcomes.load(folder / 'seed_0' / 'original' / 'outcome.npz'))
  for one, two in zip(*(m.curves.values() for m in made), strict=True):
    np.testing.assert_array_equal(one, two)
  for one, two in zip(*(m.logits.values() for m in made), strict=True):
    np.testing.assert_array_equal(one, two)
  assert len(made[0].curves['train_retain_loss']) == 3


def test_a_speaker_is_forgotten_from_a_stream(run_job, tmp_path):
  folder = tmp_path / 'workdir'
  trials = tmp_path / 'trials.txt'
  trials.write_text('1 a_s0_0 a_s0_1.wav\n0 a_s0_0.wav a_s1_4.wav\n')
  run_job(
    'sid_unlearn',
    f'--workdir={folder}',
    f'--data_dir={make_utterances(tmp_path / "data")}',
    '--data=stream',
    f'--trials={trials}',
    '--forget=speaker:s1',
    '--methods=ssd',
    '--retrain_replicates=1',
    *VARYING,
  )
  cards = records.read(folder / 'records.jsonl')
  values = {
    c.provenance['method']: c.value
    for c in cards
    if c.name == 'leakage.eer.trials'
  }
  assert set(values) == {'original', 'retrain', 'ssd'}
  assert set(values.values()) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--forget=speaker:x'], "has no speaker 'x'; there are 5 speakers"),
    (['--split=speaker'], '--split=speaker: the training part has no utter'),
    (['--task=kws'], '--task=kws: this job is for sid'),
    (['--head=arc'], 'not be one of'),
    (['--trials=/nowhere.txt'], '--trials=/nowhere.txt: must be a list of'),
    (
      ['--head=aam', '--methods=boundary_expand'],
      "'boundary_expand' needs a linear last layer",
    ),
  ],
)
def test_bad_input_is_one_line(run_job, tmp_path, flags, message):
  from absl import flags as absl_flags

  with pytest.raises((InputError, absl_flags.Error)) as info:
    run_job('sid_unlearn', f'--workdir={tmp_path / "workdir"}', *FLAGS, *flags)
  if isinstance(info.value, InputError):
    assert re.search(re.escape(message), str(info.value))
    assert '\n' not in str(info.value)


def test_a_speaker_with_too_few_clips(run_job, tmp_path):
  data = make_utterances(tmp_path / 'data')
  for take in range(2, 5):
    (data / f'a_s1_{take}.wav').unlink()
  with pytest.raises(InputError, match='speaker s1 of .* has 2 sessions; must'):
    run_job(
      'sid_train',
      f'--workdir={tmp_path / "workdir"}',
      f'--data_dir={data}',
      *VARYING,
    )


def test_an_utterance_shorter_than_a_frame(run_job, tmp_path):
  data = make_utterances(tmp_path / 'data')
  soundfile.write(data / 'a_s1_0.wav', np.zeros(399), 16_000)
  with pytest.raises(InputError, match=r'a_s1_0\.wav.*399'):
    run_job(
      'sid_train',
      f'--workdir={tmp_path / "workdir"}',
      f'--data_dir={data}',
      *VARYING,
    )


def test_a_keyword_spotter_is_no_speaker_identifier(run_job, tmp_path):
  folder = tmp_path / 'model'
  settings = {'task': 'kws'}
  checkpoint.save_params(folder, {'w': np.zeros(1)}, {'settings': settings})
  with pytest.raises(InputError, match='is a model for kws; must be one for s'):
    run_job(
      'sid_unlearn',
      f'--workdir={tmp_path / "sid"}',
      f'--checkpoint={folder}',
    )
