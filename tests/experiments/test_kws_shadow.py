"""A population from the shell: who saw what, and the logits of all."""

import dataclasses
import os
import re
import shutil

from absl import flags
import numpy as np
import pytest
import studies

from unlearn_jax.evaluation import population_cards
from unlearn_jax.evaluation import roc
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation import ulira
from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.reporting import attack_files
from unlearn_jax.reporting import records
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError

FLAGS = ['--members=16', '--chunk=8', '--unit=speaker', '--epochs=1']
METHOD = ['--method=fine_tune,lfssd', '--forget_fraction=0.5']


def load(path):
  """Reads all arrays and leaves no file open."""
  with np.load(path) as arrays:
    return dict(arrays)


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  folder = tmp_path_factory.mktemp('shadow')
  run_job('kws_shadow', f'--workdir={folder}', *FLAGS, *METHOD)
  return folder


def test_writes_design_and_logits(workdir):
  design = load(workdir / 'design.npz')
  np.testing.assert_array_equal(design['seen'].sum(0), 8)
  assert design['seen'].shape == (16, len(design['rows']))
  assert len(np.unique(design['seen'], axis=1).T) <= 5  # Speakers, as a whole.
  saved = load(workdir / 'logits.npz')
  members, utterances, classes = saved['logits'].shape
  assert (members, classes) == (16, 4)
  assert utterances == len(saved['label']) > len(design['rows'])
  assert np.isfinite(saved['logits']).all()
  assert not (saved['logits'][0] == saved['logits'][1]).all()


def test_goes_on_where_it_was(workdir, run_job, monkeypatch, capsys):
  want = load(workdir / 'logits.npz')['logits']
  (workdir / 'logits.npz').unlink()
  monkeypatch.setattr(train.program, 'run', None)  # Nothing is trained again.
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  assert 'ulira.accuracy' in capsys.readouterr().out
  got = load(workdir / 'logits.npz')['logits']
  np.testing.assert_array_equal(got, want)


def test_members_are_scored_once(workdir, run_job, monkeypatch):
  """Unless their file is older than they are."""
  monkeypatch.setattr(program, 'logits', None)
  run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  os.utime(workdir / 'logits.npz', (0, 0))
  with pytest.raises(TypeError, match='not callable'):
    run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)


def test_every_member_forgets_a_share(workdir):
  forgotten = load(workdir / 'forgotten_fine_tune_0.5.npz')['forgotten']
  seen = load(workdir / 'design.npz')['seen']
  assert not (forgotten & ~seen).any()
  assert forgotten.any(1).all()
  before = load(workdir / 'logits.npz')['logits']
  after = load(workdir / 'logits_fine_tune_0.5.npz')['logits']
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


def test_options_are_read_off_the_members(run_job, workdir, tmp_path, capsys):
  """Off a pilot, which a run for the sake of others has changed."""
  shutil.copytree(workdir, tmp_path / 'w')
  flags_ = [f'--workdir={tmp_path / "w"}', *FLAGS, '--forget_fraction=0.5']
  flags_ += ['--method=confidence_matching']
  run_job('kws_shadow', *flags_)
  said = capsys.readouterr().out
  design = load(tmp_path / 'w' / 'design.npz')
  heard = load(tmp_path / 'w' / 'logits.npz')
  (pilot,) = (tmp_path / 'w').glob('logits_confidence_matching_*_pilot.npz')
  label = heard['label'][design['rows']]
  phi, others = (
    ulira.logit_confidence(found['logits'][:, design['rows']], label)
    for found in (heard, load(pilot))
  )
  assert len(others) == 8 < len(phi)
  phi, others = phi[design['seen']], others[~design['seen'][:8]]
  slope = others.std() / phi.std()
  offset = others.mean() - slope * phi.mean()
  want = f'read off the members: slope {slope:.3g}, offset {offset:.3g}'
  assert want in said


def test_leaves_what_a_page_needs(workdir):
  """That is written after the forgetting of `METHOD`."""
  files = attack_files.read(workdir)
  assert list(files.scores) == ['original', 'retrain', 'fine_tune', 'lfssd']
  cards = {
    (c.provenance['method'], c.name): c
    for c in records.read(workdir / 'records.jsonl')
  }
  for method, (members, others) in files.scores.items():
    auc = cards[method, 'ulira.auc'].value
    assert roc.auc(members, others) == pytest.approx(auc, abs=1e-3)
  assert [(g.method, len(g.recordings)) for g in files.groups] == [
    (method, size)
    for method in ('original', 'fine_tune', 'lfssd')
    for size in (4, 2)
  ]
  for group in files.groups:
    values = [r.accuracy[group.method] for r in group.recordings]
    assert values == sorted(values, reverse=True)
  most, least = files.groups[:2]
  assert most.heading == 'Most exposed without unlearning'
  of_each = load(workdir / attack_files.ATTACKS)
  accuracy = of_each['original.example_accuracy']
  assert accuracy.shape == load(workdir / 'design.npz')['rows'].shape
  assert most.recordings[0].accuracy['original'] == np.nanmax(accuracy)
  assert least.recordings[-1].accuracy['original'] == np.nanmin(accuracy)


@pytest.fixture
def study(tmp_path):
  """A folder of a study of one request."""
  folder = tmp_path / 'study'
  folder.mkdir()
  known = {'task': 'kws', 'forget': 'speaker:speaker_001', 'seeds': [0]}
  cards = [
    dataclasses.replace(card, provenance={**card.provenance, **known})
    for own in studies.block(fine_tune=studies.method()).cards.values()
    for card in own.values()
  ]
  records.write(folder / 'records.jsonl', cards)
  (folder / 'searches.jsonl').touch()
  return folder


def test_a_page_of_studies_shows_a_population(
  workdir, study, run_job, tmp_path, monkeypatch
):
  def report(population, name):
    # RESULTS.md says by what command it was made.
    monkeypatch.setattr('sys.argv', ['report'])
    out, page = tmp_path / f'{name}.md', tmp_path / f'{name}.html'
    run_job(
      'report',
      f'--study={study}',
      f'--ulira=kws:speaker:speaker_001={population}',
      f'--out={out}',
      f'--page={page}',
      f'--workdir={tmp_path}',
    )
    return out.read_text(), page.read_text()

  text, page = report(workdir, 'new')
  assert 'U-LiRA, kws speaker:speaker_001</h2>' in page
  assert page.count('<audio') == page.count('data:audio/wav') == 2 * (4 + 2)
  # A population from before these files were written.
  before = tmp_path / 'before'
  before.mkdir()
  shutil.copy(workdir / 'records.jsonl', before)
  old_text, old_page = report(before, 'old')
  assert old_text == text
  assert '<audio' not in old_page
  assert old_page.count('<svg') == page.count('<svg') - 1  # The curves.
  (before / attack_files.EXPOSED).write_text('[{')
  with pytest.raises(InputError, match=r'exposed\.json: is damaged'):
    report(before, 'damaged')
  assert not (tmp_path / 'damaged.md').exists()


def test_forgets_part_by_part(workdir, run_job):
  run_job(
    'kws_shadow',
    f'--workdir={workdir}',
    *FLAGS,
    '--method=fine_tune',
    '--forget_fraction=1',
    '--forget_parts=2',
  )
  seen = load(workdir / 'design.npz')['seen']
  runs = load(workdir / 'forgotten_fine_tune_1_in_2.npz')['forgotten']
  runs = runs.reshape(16, 2, -1)
  assert runs.any(2).all()
  np.testing.assert_array_equal(runs.sum(1), seen)
  cards = records.read(workdir / 'records.jsonl')
  by_name = {(c.provenance['method'], c.name): c for c in cards}
  assert 0.2 < by_name['fine_tune', 'ulira.accuracy'].value < 0.9
  # Members are what an interval is over, however many runs they made.
  logits = load(workdir / 'logits_fine_tune_1_in_2.npz')
  design = load(workdir / 'design.npz')
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
  logits = load(workdir / 'logits.npz')['logits']
  bad = logits.copy()
  bad[2] = np.nan
  (workdir / 'logits.npz').unlink()
  monkeypatch.setattr(program, 'logits', lambda *args, **options: bad)
  with pytest.raises(NonFiniteLossError, match='1 of 16 members diverged'):
    run_job('kws_shadow', f'--workdir={workdir}', *FLAGS)
  monkeypatch.undo()
  (workdir / 'logits.npz').unlink()
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
