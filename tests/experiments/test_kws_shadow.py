"""A population from the shell: who saw what, and the logits of all."""

import re

from absl import flags
import numpy as np
import pytest

from unlearn_jax.evaluation import population_cards
from unlearn_jax.evaluation import statistics
from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.reporting import records
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError

FLAGS = ['--members=16', '--chunk=8', '--unit=speaker', '--epochs=1']
METHOD = ['--method=fine_tune,lfssd', '--forget_fraction=0.5']


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  folder = tmp_path_factory.mktemp('shadow')
  run_job('kws_shadow', f'--workdir={folder}', *FLAGS, *METHOD)
  return folder


def test_writes_design_and_logits(workdir):
  design = np.load(workdir / 'design.npz')
  np.testing.assert_array_equal(design['seen'].sum(0), 8)
  assert design['seen'].shape == (16, len(design['rows']))
  assert len(np.unique(design['seen'], axis=1).T) <= 5  # Speakers, as a whole.
  saved = np.load(workdir / 'logits.npz')
  members, utterances, classes = saved['logits'].shape
  assert (members, classes) == (16, 4)
  assert utterances == len(saved['label']) > len(design['rows'])
  assert np.isfinite(saved['logits']).all()
  assert not (saved['logits'][0] == saved['logits'][1]).all()


def test_goes_on_where_it_was(workdir, run_job, monkeypatch, capsys):
  want = np.load(workdir / 'logits.npz')['logits']
  (workdir / 'logits.npz').unlink()
  monkeypatch.setattr(train.program, 'run', None)  # Nothing is trained again.
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  assert 'ulira.accuracy' in capsys.readouterr().out
  got = np.load(workdir / 'logits.npz')['logits']
  np.testing.assert_array_equal(got, want)


def test_every_member_forgets_a_share(workdir):
  forgotten = np.load(workdir / 'forgotten_fine_tune_0.5.npz')['forgotten']
  seen = np.load(workdir / 'design.npz')['seen']
  assert not (forgotten & ~seen).any()
  assert forgotten.any(1).all()
  before = np.load(workdir / 'logits.npz')['logits']
  after = np.load(workdir / 'logits_fine_tune_0.5.npz')['logits']
  assert (np.abs(after - before).max((1, 2)) > 1e-3).all()


def test_every_population_has_cards_and_a_place_on_the_page(workdir, run_job):
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS, *METHOD)
  cards = records.read(workdir / 'records.jsonl')
  methods = list(dict.fromkeys(c.provenance['method'] for c in cards))
  assert methods == ['original', 'retrain', 'fine_tune', 'lfssd']
  by_name = {(c.provenance['method'], c.name): c for c in cards}
  for method in methods:
    card = by_name[method, 'ulira.accuracy']
    assert 0.2 < card.value < 0.9 and card.ci_low < card.value < card.ci_high
    assert card.ideal == pytest.approx(0.5, abs=0.1)
    assert by_name[method, 'forgetting_score'].ideal_ci_low > 0
  table = (workdir / 'report' / 'table.md').read_text()
  assert '| klom.mean |' in table
  html = (workdir / 'report' / 'index.html').read_text()
  assert html.count('<svg') == 2
  assert 'Most exposed after fine_tune' in html
  assert html.count('data:audio/wav;base64,') == 3 * (4 + 2)


def test_forgets_part_by_part(workdir, run_job):
  run_job(
    'kws_shadow',
    f'--workdir={workdir}',
    *FLAGS,
    '--method=fine_tune',
    '--forget_fraction=1',
    '--forget_parts=2',
  )
  seen = np.load(workdir / 'design.npz')['seen']
  runs = np.load(workdir / 'forgotten_fine_tune_1_in_2.npz')['forgotten']
  runs = runs.reshape(16, 2, -1)
  assert runs.any(2).all()
  np.testing.assert_array_equal(runs.sum(1), seen)
  cards = records.read(workdir / 'records.jsonl')
  by_name = {(c.provenance['method'], c.name): c for c in cards}
  assert 0.2 < by_name['fine_tune', 'ulira.accuracy'].value < 0.9
  # Members are what an interval is over, however many runs they made.
  logits = np.load(workdir / 'logits_fine_tune_1_in_2.npz')
  design = np.load(workdir / 'design.npz')
  rows, label = design['rows'], logits['label']
  right = logits['logits'][:, rows].argmax(-1) == label[rows]
  kept = seen.repeat(2, 0) & ~runs.reshape(32, -1)
  share = ((right & kept).sum(1) / kept.sum(1)).reshape(16, 2).mean(1)
  want = statistics.t_interval(share)
  card = by_name['fine_tune', 'accuracy.retain']
  np.testing.assert_allclose(
    (card.value, card.ci_low, card.ci_high), (want.mean, want.low, want.high)
  )


def test_populations_too_small_keep_what_was_made(
  workdir, run_job, monkeypatch, capsys
):
  def refuse(*args, **options):
    raise ValueError('U-LiRA needs 4 models, got 2.')

  monkeypatch.setattr(population_cards, 'population_cards', refuse)
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  out = capsys.readouterr().out
  assert 'No metrics: U-LiRA needs 4 models, got 2. Give more --mem' in out
  assert (workdir / 'logits.npz').exists()


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--method=magic'], "--method: 'magic' is none of retrain"),
    (['--method=retrain'], '--method=retrain: must be a comma list of methods'),
    (['--method=rewind:npo'], '--method=rewind:npo: must be a comma list of'),
    (['--method=unsir'], "'unsir' is for requests that remove whole classes"),
    (['--method=npo', '--forget_fraction=0'], '--forget_fraction=0.0: must be'),
    (
      ['--method=npo', '--forget_parts=9'],
      '--forget_parts=9: member 0 forgets',
    ),
  ],
)
def test_bad_methods(run_job, tmp_path, args, message):
  with pytest.raises(InputError, match=re.escape(message)):
    run_job('kws_shadow', f'--workdir={tmp_path}', *FLAGS, *args)


def test_a_diverged_member_is_named(workdir, run_job, monkeypatch):
  logits = np.load(workdir / 'logits.npz')['logits']
  bad = logits.copy()
  bad[2] = np.nan
  monkeypatch.setattr(program, 'logits', lambda *args, **options: bad)
  with pytest.raises(NonFiniteLossError, match='1 of 16 members diverged'):
    run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  monkeypatch.undo()
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)


def test_other_settings_want_another_folder(workdir, run_job):
  with pytest.raises(InputError, match=re.escape('learning_rate')):
    run_job(
      'kws_shadow',
      f'--workdir={workdir}',
      *FLAGS,
      '--learning_rate=1e-4',
    )


def test_members_come_in_pairs(run_job, tmp_path):
  with pytest.raises(flags.IllegalFlagValueError, match='must be even'):
    run_job('kws_shadow', f'--workdir={tmp_path}', '--members=3')
