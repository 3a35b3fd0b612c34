"""A whole job: what it leaves, that it resumes, and what it may not mix."""

import json
import re

import pytest

from experiments import workdir as workdir_lib
from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.reporting import records
from unlearn_jax.training import checkpoint
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError

METHODS = ('gradient_ascent', 'salun', 'scrub_rewind')
FLAGS = (
  f'--methods={",".join(METHODS)}',
  '--forget=sample:10%',
  '--preset=salun.epochs=1',
)


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  """The folder of a finished job with two seeds."""
  folder = tmp_path_factory.mktemp('job') / 'workdir'
  run_job('kws_unlearn', f'--workdir={folder}', '--seeds=2', *FLAGS)
  return folder


def metrics(workdir):
  """The lines of the cards, without those that look at the clock."""
  lines = (workdir / 'records.jsonl').read_text().splitlines()
  timed = 'cost.', 'gum"', 'cgum"'
  heads = tuple(f'{{"name": "{name}' for name in timed)
  return [line for line in lines if not line.startswith(heads)]


def test_records_hold_every_method(workdir):
  cards = records.read(workdir / 'records.jsonl')
  methods = list(dict.fromkeys(c.provenance['method'] for c in cards))
  assert methods == ['original', 'retrain', *METHODS]
  card = next(c for c in cards if c.name == 'accuracy.test')
  assert card.n_seeds == 2 and card.provenance['seeds'] == [0, 1]
  assert card.provenance['forget'] == 'sample:10%'
  assert len(set(card.provenance['forget_hashes'])) == 2
  hashes = {c.provenance['config_hash'] for c in cards}
  assert len(hashes) == 1 + len(METHODS)  # Original and retrain share theirs.
  assert {c.noise_floor >= 0 for c in cards if c.name == 'accuracy.test'} == {
    True
  }


def test_page_has_sound_and_every_method(workdir):
  html = (workdir / 'report' / 'index.html').read_text()
  assert html.count('data:audio/wav;base64,') == 8
  assert html.count('<svg') == 5
  for heading in ('Attack by loss', 'Losses of the forget set', 'Layers'):
    assert f'<h2>{heading}</h2>' in html
  for method in METHODS:
    assert f'>{method}</td>' in html
  table = (workdir / 'report' / 'table.md').read_text()
  assert [line.split(' | ')[0] for line in table.splitlines()[2:]] == [
    f'| {method}' for method in ('original', 'retrain', *METHODS)
  ]


def test_every_run_leaves_its_model(workdir):
  for method in ('original', 'retrain', 'retrain_1', *METHODS):
    folder = workdir / 'seed_1' / method
    assert sorted(p.name for p in folder.iterdir()) == ['model', 'outcome.npz']
    description = checkpoint.describe(folder / 'model')
    assert description['classes'] == ['down', 'no', 'up', 'yes']
    assert description['seed'] == 1
    assert description['settings']['dataset'] == 'espeak_commands/tiny'


def test_retrained_models_differ_and_saw_less(workdir):
  runs = [
    outcomes.load(workdir / 'seed_0' / name / 'outcome.npz')
    for name in ('original', 'retrain', 'retrain_1')
  ]
  assert (runs[1].logits['test'] != runs[2].logits['test']).any()
  examples = [run.cost['examples'] for run in runs]
  forgotten = len(runs[0].logits['forget'])
  assert examples[0] - examples[1] == 3 * forgotten  # Three epochs.


def test_flags_file_reproduces_the_job_without_running_again(workdir, run_job):
  before = (workdir / 'records.jsonl').read_bytes()
  made = {p: p.stat().st_mtime_ns for p in workdir.rglob('outcome.npz')}
  run_job('kws_unlearn', f'--flagfile={workdir / "flags.txt"}')
  assert (workdir / 'records.jsonl').read_bytes() == before
  assert {p: p.stat().st_mtime_ns for p in made} == made


def test_another_method_is_added_to_the_same_folder(workdir, run_job):
  before = metrics(workdir)
  flags = [*FLAGS, '--methods=fine_tune', '--seeds=1']
  run_job('kws_unlearn', f'--workdir={workdir}', *flags)
  found = {
    c.provenance['method'] for c in records.read(workdir / 'records.jsonl')
  }
  assert found == {'original', 'retrain', 'fine_tune'}
  run_job('kws_unlearn', f'--workdir={workdir}', '--seeds=2', *FLAGS)
  assert metrics(workdir) == before


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--epochs=4', r'--epochs=3 there, --epochs=4 now'),
    ('--forget=keyword:up', r'--forget=sample:10% there, --forget=keyword:up'),
    ('--preset=scrub.epochs=1', r'--preset=salun.epochs=1 --preset=scrub.epo'),
    ('--split=speaker', '--split=utterance there, --split=speaker now'),
  ],
)
def test_workdir_of_another_configuration(workdir, run_job, flag, message):
  before = (workdir / 'flags.txt').read_text()
  flags = [*FLAGS, '--methods=scrub,salun,fine_tune', flag]
  with pytest.raises(InputError, match='made by another configuration') as info:
    run_job('kws_unlearn', f'--workdir={workdir}', *flags)
  assert re.search(message, str(info.value))
  assert (workdir / 'flags.txt').read_text() == before


def test_a_workdir_older_than_a_flag(tmp_path):
  """It was made with what is the default now."""

  def opened(remat, **others):
    settings = {'epochs': 3, 'remat': remat, **others}
    return workdir_lib.open_workdir(
      str(tmp_path), settings, {}, newer={'remat': False}
    )

  opened(False)
  (tmp_path / 'seed_0').mkdir()
  (tmp_path / 'flags.txt').write_text('--epochs=3\n')
  with pytest.raises(InputError, match='no --remat there, --remat=True now'):
    opened(True)
  with pytest.raises(InputError, match='no --more there, --more=1 now'):
    opened(False, more=1)
  opened(False)
  assert '--remat=False' in (tmp_path / 'flags.txt').read_text()


def test_two_jobs_may_not_share_a_folder(start_job, run_job, workdir):
  job = start_job('kws_unlearn', f'--workdir={workdir}', '--seeds=2', *FLAGS)
  # This process holds the lock since it made the folder.
  stderr = job.communicate()[1]
  assert job.returncode == 1
  assert stderr.count('\n') == 1, stderr
  assert 'another job is running there' in stderr


def test_unlearning_from_a_given_model(run_job, tmp_path, capsys):
  run_job('kws_train', f'--workdir={tmp_path / "train"}', '--seeds=2')
  assert 'validation %' in capsys.readouterr().out
  model = tmp_path / 'train' / 'seed_1' / 'original'
  assert (tmp_path / 'train' / 'records.jsonl').exists()
  flags = ['--forget=speaker:speaker_001', '--methods=fine_tune', '--seeds=2']
  run_job(
    'kws_unlearn',
    f'--workdir={tmp_path / "unlearn"}',
    f'--checkpoint={model}',
    *flags,
  )
  cards = records.read(tmp_path / 'unlearn' / 'records.jsonl')
  original = next(c for c in cards if c.name == 'accuracy.test')
  trained = outcomes.load(model / 'outcome.npz')
  line = [
    json.loads(line)
    for line in (tmp_path / 'train' / 'records.jsonl').read_text().splitlines()
  ]
  of_train = next(c for c in line if c['name'] == 'accuracy.test')
  # Both seeds unlearn from the one model, on its own split.
  assert original.values == (of_train['values'][1],) * 2
  assert not (tmp_path / 'unlearn' / 'seed_0' / 'original').exists()
  assert trained.seed == 1


def test_diverging_method_is_named_and_the_others_are_kept(run_job, tmp_path):
  flags = [
    '--methods=fine_tune,gradient_ascent',
    '--preset=fine_tune.learning_rate=1e38',
  ]
  with pytest.raises(
    NonFiniteLossError, match=r'seed 0 fine_tune: retain_loss is \w+ at step \d'
  ):
    run_job('kws_unlearn', f'--workdir={tmp_path}', *flags)
  cards = records.read(tmp_path / 'records.jsonl')
  methods = {c.provenance['method'] for c in cards}
  assert methods == {'original', 'retrain', 'gradient_ascent'}
  html = (tmp_path / 'report' / 'index.html').read_text()
  assert 'seed 0 fine_tune: retain_loss is' in html


def test_models_are_judged_by_every_metric(workdir, run_apart, tmp_path):
  runs, audit = workdir / 'seed_1', tmp_path / 'audit'
  both = [f'--retrain={runs}/retrain', f'--retrain={runs}/retrain_1']
  given = f'--checkpoint={runs}/salun'
  other = workdir / 'seed_0'
  calls = {
    'good': [given, *both, f'--original={runs}/original'],
    'no retrain': [given],
    'no checkpoint': both,
    'nowhere': ['--checkpoint=/nowhere', *both],
    'no model': [f'--checkpoint={tmp_path}', *both],
    'same name': [given, given, *both],
    'other seed': [f'--checkpoint={other}/salun', *both],
    'other forget set': [given, *both, '--forget=sample:5'],
    'bad request': [given, *both, '--forget=everything'],
  }
  errors = dict(
    zip(
      calls,
      run_apart(
        'evaluate',
        [
          [*args, f'--workdir={audit if name == "good" else tmp_path / "bad"}']
          for name, args in calls.items()
        ],
      ),
      strict=True,
    )
  )
  for name, message in {
    'good': '',
    'no retrain': '--retrain: must be given',
    'no checkpoint': '--checkpoint: must be given',
    'nowhere': '--checkpoint=/nowhere: does not exist',
    'no model': 'not a checkpoint',
    'same name': 'the name salun is taken',
    'other seed': 'split_seed are not those of the retrained model',
    'other forget set': 'has forgotten another set',
    'bad request': "'everything' must be sample",
  }.items():
    assert message in errors[name] and '\n' not in errors[name], errors[name]
    assert bool(message) == bool(errors[name]), (name, errors[name])
  cards = records.read(audit / 'records.jsonl')
  own = {c.name: c for c in cards if c.provenance['method'] == 'salun'}
  # What the unlearning job said of the same model, and what it could not say.
  before = {
    c.name: c.values[1]
    for c in records.read(workdir / 'records.jsonl')
    if c.provenance['method'] == 'salun'
  }
  for name in ('accuracy.forget', 'mia.svc_five', 'zrf', 'distance.js'):
    assert own[name].value == pytest.approx(before[name], abs=1e-6), name
  assert 'relearn.anamnesis' in own and 'relearn.anamnesis' not in before
  assert own['cost.rte'].value > 0
  assert 'segment6' in str(sorted(own))
  html = (audit / 'report' / 'index.html').read_text()
  assert '>salun</td>' in html


def test_models_that_are_wrong_on_purpose_are_noticed(
  workdir, run_job, tmp_path
):
  runs = f'--runs={workdir / "seed_1"}'
  run_job('fooled', runs, f'--workdir={tmp_path}')
  cards = records.read(tmp_path / 'records.jsonl')
  by_name = {(c.provenance['method'], c.name): c for c in cards}
  for method in ('constant', 'random head', 'ascent'):
    assert (method, 'relearn.loss_area') in by_name
  constant = by_name['constant', 'collapse.excess']
  assert constant.value == pytest.approx(1.0) and constant.collapsed
  assert constant.verdict == 'damaged'
  # Its layers below the last are those of the original model.
  layer = by_name['constant', 'cka.original.forget.segment6']
  assert layer.value == pytest.approx(1.0)
  (tmp_path / 'design.npz').write_text('junk')
  for args, message in (
    ([f'--runs={tmp_path / "nowhere"}'], 'holds no retrained model'),
    ([runs, f'--shadow={tmp_path}'], 'must be a folder that kws_shadow fin'),
  ):
    with pytest.raises(InputError, match=message):
      run_job('fooled', *args, f'--workdir={tmp_path / "bad"}')
