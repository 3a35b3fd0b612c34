"""A study: searched fairly, each cell made once, whoever is killed."""

import collections
import dataclasses
import importlib.metadata
import json
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
from test_kws_unlearn import metrics

from experiments import cli
from experiments import inner
from experiments import work
from unlearn_jax.evaluation import outcome
from unlearn_jax.methods import registry
from unlearn_jax.reporting import records
from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError

FLAGS = [
  '--task=kws',
  '--request=sample:10%',
  '--request=keyword:up',
  '--search_on=sample:20%',
  '--settings=4',
  '--methods=gradient_ascent,delete',
  '--retrain_replicates=1',
]


def version_folder(workdir):
  (folder,) = workdir.glob('version_*')
  return folder


def made(workdir):
  """When each outcome and search was made."""
  folder = version_folder(workdir)
  paths = [*folder.rglob('outcome.npz'), *folder.rglob('tuning/*/*.json')]
  return {path.relative_to(folder): path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  folder = tmp_path_factory.mktemp('study')
  run_job('benchmark', f'--workdir={folder}', *FLAGS)
  return folder


def test_records_hold_every_request_and_method(workdir):
  cards = records.read(version_folder(workdir) / 'records.jsonl')
  found = {(c.provenance['forget'], c.provenance['method']) for c in cards}
  methods = ('original', 'retrain', 'gradient_ascent', 'delete')
  assert found == {
    (request, method)
    for request in ('sample:10%', 'keyword:up')
    for method in methods
  }
  names = {c.name for c in cards if c.provenance['forget'] == 'keyword:up'}
  assert {'average_gap', 'accuracy.test_forgotten', 'cost.rte'} <= names


def test_programs_may_be_dropped_at_any_time(
  workdir, run_job, tmp_path, monkeypatch
):
  monkeypatch.setattr(cli, 'has_many_mappings', lambda: True)
  flags = [f for f in FLAGS if 'keyword' not in f]
  run_job('benchmark', f'--workdir={tmp_path}', *flags)
  got, want = (set(metrics(version_folder(w))) for w in (tmp_path, workdir))
  assert got and got <= want


def test_runs_have_the_setting_that_the_search_found(workdir):
  folder = version_folder(workdir)
  lines = (folder / 'searches.jsonl').read_text().splitlines()
  searches = {record['method']: record for record in map(json.loads, lines)}
  assert set(searches) == {'gradient_ascent', 'delete'}
  cards = records.read(folder / 'records.jsonl')
  presets = {
    (c.provenance['forget'], c.provenance['method']): c.provenance['preset']
    for c in cards
  }
  for method, record in searches.items():
    assert record['forget'] == 'sample:20%' and record['seed'] == 1_000
    assert len(record['trials']) == 4
    gaps = [trial['gap'] for trial in record['trials']]
    chosen = record['trials'][record['chosen']]
    assert chosen['gap'] == min(gaps)
    own = dataclasses.asdict(registry.spec(method).preset)
    assert record['trials'][record['preset']]['preset'] == own
    assert presets['sample:10%', method] == chosen['preset']
    # Nothing was searched for keywords.
    own = dataclasses.asdict(registry.spec(method).class_preset)
    assert presets['keyword:up', method] == own
  # The seed of searches is of no result.
  assert {c.provenance['seeds'][0] for c in cards} == {0}


def test_several_requests_of_a_search_count_alike(run_job, tmp_path):
  flags = [f for f in FLAGS if 'keyword' not in f and 'methods' not in f]
  flags += ['--search_on=sample:30%', '--methods=gradient_ascent']
  flags += ['--retrain_replicates=2']
  run_job('benchmark', f'--workdir={tmp_path}', *flags)
  folder = version_folder(tmp_path)
  assert {path.name for path in (folder / 'tuning').iterdir()} == {
    'sample_20pc',
    'sample_30pc',
    'sample_20pc+sample_30pc',
  }
  (record,) = map(
    json.loads, (folder / 'searches.jsonl').read_text().splitlines()
  )
  assert record['forget'] == 'sample:20%, sample:30%'
  assert len(record['forget_hash'].split(', ')) == 2
  trials, own = record['trials'], record['preset']
  gaps, floor = [t['gap'] for t in trials], np.mean(record['retrain_gaps'])
  assert floor > 0
  want = own if gaps[own] <= floor else np.argmin(gaps)
  assert record['chosen'] == want, (gaps, floor)
  (run,) = (
    c
    for c in records.read(folder / 'records.jsonl')
    if c.name == 'average_gap' and c.provenance['method'] == 'gradient_ascent'
  )
  assert run.provenance['searched_on'] == record['forget']
  assert run.provenance['preset'] == trials[record['chosen']]['preset']


def test_all_seeds_share_one_split(workdir):
  """So no search, of whatever seed, sees what any result is tested on."""
  folder = version_folder(workdir)
  models = [path.parent / 'model' for path in folder.rglob('outcome.npz')]
  described = [checkpoint.describe(model) for model in models]
  assert {d['seed'] for d in described} == {0, 1_000}
  assert {d['split_seed'] for d in described} == {0}


def test_more_methods_run_only_what_is_new(
  workdir, run_job, tmp_path, monkeypatch
):
  again = tmp_path / 'again'
  shutil.copytree(workdir, again)
  before = made(again)
  measured = []

  def with_inner(task, cell, outcomes, models):
    measured.append({outcome.method for outcome in outcomes})
    return measure(task, cell, outcomes, models)

  measure = inner.with_inner
  monkeypatch.setattr(inner, 'with_inner', with_inner)
  run_job(
    'benchmark',
    f'--workdir={again}',
    *FLAGS,
    '--methods=gradient_ascent,delete,fine_tune',
  )
  after = made(again)
  assert {path: after[path] for path in before} == before
  new = collections.Counter(path.parts[0] for path in after.keys() - before)
  assert new == {'tuning': 1, 'sample_10pc': 1, 'keyword_up': 1}
  # The others are what the new model is compared with.
  assert measured == 2 * [{'original', 'retrain', 'fine_tune'}]


def test_other_methods_and_requests_stay_in_the_records(
  workdir, run_job, tmp_path
):
  again = tmp_path / 'again'
  shutil.copytree(workdir, again)
  flags = [flag for flag in FLAGS if 'keyword' not in flag]
  place = f'--workdir={again}'
  run_job('benchmark', place, *flags, '--methods=fine_tune')
  before, after = version_folder(workdir), version_folder(again)
  assert set(metrics(before)) < set(metrics(after))
  texts = [(f / 'searches.jsonl').read_text() for f in (before, after)]
  assert set(texts[0].splitlines()) < set(texts[1].splitlines())
  # Other seeds are another study, and so are their retrained models.
  run_job('benchmark', place, *flags, '--methods=fine_tune', '--seeds=2')
  cards = records.read(after / 'records.jsonl')
  assert {c.provenance['method'] for c in cards} == {
    *('original', 'retrain', 'fine_tune')
  }


def test_killed_and_shared_studies_end_in_the_same_records(
  workdir, start_job, tmp_path
):
  """One process is killed at a random moment; then two share what is left."""
  flags = [f'--workdir={tmp_path}', *FLAGS, '--checkpoint_every_s=0']
  random.seed(0)
  parts = random.randint(2, 8)
  job = start_job('benchmark', *flags)
  for line in job.stdout:
    parts -= ' left: ' in line
    if not parts:
      break
  time.sleep(random.random())
  job.send_signal(signal.SIGKILL)
  job.communicate()
  jobs = [start_job('benchmark', *flags) for _ in range(2)]
  texts = []
  for job in jobs:
    out, error = job.communicate(timeout=300)
    assert job.returncode == 0, error
    texts.append(out)
  begun = [
    line for text in texts for line in text.splitlines() if 'left:' in line
  ]
  names = [line.partition('left: ')[2] for line in begun]
  assert len(names) == len(set(names))
  folder = version_folder(tmp_path)
  assert metrics(folder) == metrics(version_folder(workdir))


def test_runs_together_are_as_alone(workdir, run_job, tmp_path, capsys):
  run_job(
    'benchmark',
    f'--workdir={tmp_path}',
    '--task=kws',
    '--request=keyword:up',
    '--methods=gradient_ascent',
    '--retrain_replicates=1',
    '--seeds=2',
    '--together=3',
  )
  assert '6 left: seed 0 original, seed 1 original' in capsys.readouterr().out
  folder, alone = version_folder(tmp_path), version_folder(workdir)
  for name in (
    'seed_0/original',
    *(f'keyword_up/seed_0/{m}' for m in ('retrain', 'gradient_ascent')),
  ):
    got, want = (
      outcome.load(path / name / 'outcome.npz') for path in (folder, alone)
    )
    for of in ('curves', 'logits'):
      for key, values in getattr(want, of).items():
        np.testing.assert_array_equal(getattr(got, of)[key], values)
    assert got.cost['examples'] == want.cost['examples']
  assert not [*folder.glob('**/running/*')]


def test_a_run_waits_for_its_own_search_alone(workdir, start_job, tmp_path):
  """Another process may still be at the search of another method."""
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  folder = version_folder(tmp_path)
  search = folder / 'tuning' / 'sample_20pc' / 'delete.json'
  runs = folder / 'sample_10pc' / 'seed_0'
  search.rename(tmp_path / 'search_of_another')
  for method in ('gradient_ascent', 'delete'):
    shutil.rmtree(runs / method)
  with work.claim(search) as mine:
    assert mine
    job = start_job('benchmark', f'--workdir={tmp_path}', *FLAGS)
    deadline = time.monotonic() + 120
    while not (runs / 'gradient_ascent' / 'outcome.npz').exists():
      assert job.poll() is None, job.stderr.read()
      assert time.monotonic() < deadline
      time.sleep(0.05)
    assert not (runs / 'delete').exists()
    (tmp_path / 'search_of_another').rename(search)
  _, error = job.communicate(timeout=120)
  assert job.returncode == 0, error
  assert metrics(folder) == metrics(version_folder(workdir))


def test_another_version_keeps_its_records(
  workdir, run_job, monkeypatch, capsys
):
  before = metrics(version_folder(workdir))
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: '9.9')
  run_job('benchmark', f'--workdir={workdir}', *FLAGS, '--plan')
  said = capsys.readouterr().out
  assert 'of another version of the package or the corpus, which are k' in said
  (other,) = workdir.glob('version_9.9_*')
  other.rmdir()
  assert metrics(version_folder(workdir)) == before


def test_plan_says_what_is_left(workdir, run_job, capsys):
  run_job('benchmark', f'--workdir={workdir}', *FLAGS, '--seeds=2', '--plan')
  said = capsys.readouterr().out.splitlines()
  rows = {line.split()[0]: line.split()[1:] for line in said if ':' in line[:9]}
  # done, original, retrain, search, run.
  assert rows['sample:10%'][:5] == ['3', '0', '1', '0', '2']
  assert rows['sample:20%'][:5] == ['3', '0', '0', '0', '0']


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--request='], '^--request=: .* must be sample:5%'),
    (
      ['--request=person:x'],
      "^--request=person:x: 'person:x' must be sample:5%",
    ),
    (
      ['--request=sample:0%'],
      '^--request=sample:0%: sample:0% must be a numbe',
    ),
    (
      ['--request=sample:0.1%'],
      '^--request=sample:0.1%: .* selects none of th',
    ),
    (
      ['--search_on=person:x'],
      "^--search_on=person:x: 'person:x' must be samp",
    ),
    (['--methods=magic'], "--methods: 'magic' is none of retrain, fine_tune"),
    (['--metrics=joy'], '--metrics: joy: must be one of accuracy.forget, acc'),
    (['--search_on=sample:1%'], 'search_on=.* there, --search_on=.* now'),
    (['--settings=6'], '--settings=4 there, --settings=6 now'),
  ],
)
def test_bad_input_is_said_at_once(workdir, run_job, flags, message):
  before = made(workdir)
  with pytest.raises(InputError, match=message) as info:
    run_job('benchmark', f'--workdir={workdir}', *FLAGS, *flags)
  assert '\n' not in str(info.value)
  assert made(workdir) == before


def test_a_search_on_nobody(run_job, tmp_path):
  flags = [*FLAGS, '--request=speaker:speaker_001', '--search_on=speaker:x']
  with pytest.raises(InputError, match="has no speaker 'x'; there are 5 spea"):
    run_job('benchmark', f'--workdir={tmp_path}', *flags)


def test_no_request(run_job, tmp_path):
  with pytest.raises(InputError, match='^--request: must be given'):
    run_job('benchmark', f'--workdir={tmp_path}', '--task=kws')


def test_report_is_made_of_the_records(workdir, run_job, tmp_path):
  out, again = tmp_path / 'a.md', tmp_path / 'b.md'
  run_job(
    'report',
    f'--study={workdir}',
    f'--out={out}',
    f'--compact={tmp_path}',
    f'--workdir={tmp_path}',
  )
  text = out.read_text()
  for title in ('## kws sample:10%', '## kws keyword:up', '**C1: ', '**C7: '):
    assert title in text
  card = next(
    c
    for c in records.read(version_folder(workdir) / 'records.jsonl')
    if (c.provenance['forget'], c.provenance['method'], c.name)
    == ('keyword:up', 'delete', 'accuracy.test')
  )
  table = text.partition('## kws keyword:up')[2]
  row = next(x for x in table.splitlines() if x.startswith('| delete |'))
  assert row.split(' | ')[1].split()[0] == f'{100 * card.value:.1f}'
  # The compact file says the same.
  (compact,) = tmp_path.glob('*.json.gz')
  place = f'--workdir={tmp_path}'
  run_job('report', f'--study={compact}', f'--out={again}', place)
  assert again.read_text().splitlines()[3:] == text.splitlines()[3:]


def test_an_ablation(workdir, run_job, tmp_path):
  """Methods with one setting changed: no search, and a table of their own."""
  again, out = tmp_path / 'again', tmp_path / 'out.md'
  shutil.copytree(workdir, again)
  before = made(again)
  name = 'delete[learning_rate=0;epochs=1]'
  flags = [f for f in FLAGS if 'keyword' not in f]
  run_job('benchmark', f'--workdir={again}', *flags, f'--methods={name}')
  new = made(again).keys() - before
  assert {path.parts[-2] for path in new} == {'delete_learning_rate_0_epochs_1'}
  cards = {
    c.provenance['method']: c
    for c in records.read(version_folder(again) / 'records.jsonl')
    if (c.provenance['forget'], c.name) == ('sample:10%', 'accuracy.forget')
  }
  chosen, changed = (cards[n].provenance['preset'] for n in ('delete', name))
  assert changed == {**chosen, 'learning_rate': 0.0, 'epochs': 1}
  assert cards[name].value == cards['original'].value  # At rate 0.
  report = ['report', f'--out={out}', f'--workdir={tmp_path}']
  run_job(*report, f'--study={again}')
  text = out.read_text()
  before, title, table = text.partition('## Ablation')
  table = table.partition('## How')[0]
  assert title and '### kws sample:10%' in table and '[' not in before
  rows = [row for row in table.splitlines() if row.startswith('| delete')]
  assert [row.split(' | ')[0] for row in rows] == ['| delete', f'| {name}']
  card = cards[name]
  assert f'| {100 * card.value:.1f} ± ' in rows[1]
  assert re.search(r' \| [+-]\d+\.\d \|$', rows[1])  # One seed.


def test_report_without_a_retrained_model(workdir, run_job, tmp_path):
  folder = version_folder(workdir)
  cards = records.read(folder / 'records.jsonl')
  kept = [c for c in cards if c.provenance['method'] != 'retrain']
  records.write(tmp_path / 'records.jsonl', kept)
  shutil.copy(folder / 'searches.jsonl', tmp_path)
  out = tmp_path / 'out.md'
  with pytest.raises(InputError, match='sample:10%: has no retrained model'):
    run_job(
      'report', f'--study={tmp_path}', f'--out={out}', f'--workdir={tmp_path}'
    )
  assert not out.exists()


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], '^--study: must be given'),
    (['--study=nowhere'], '^--study=nowhere: holds no records'),
    ([f'--study={__file__}'], r'test_benchmark.py: must be the folder of a st'),
    (
      ['--study=STUDY', f'--replication={__file__}'],
      'test_benchmark.py: must be a paper_table.jsonl',
    ),
    (['--study=STUDY', '--ulira=kws:x'], '--ulira=kws:x: must be TASK:REQUEST'),
    (['--study=STUDY', '--ulira=x:sample:5%=y'], 'must be TASK:REQUEST=FOLD'),
    (['--study=STUDY', '--ulira=kws:x=y'], "^--ulira=x: 'x' must be sample:5%"),
    (
      ['--study=STUDY', '--ulira=kws:sample:7%=y'],
      'must be of a request of the studies: kws sample:10%, kws keyword:up',
    ),
  ],
)
def test_bad_input_of_a_report(workdir, run_job, tmp_path, flags, message):
  flags = [flag.replace('STUDY', str(workdir)) for flag in flags]
  flags.append(f'--workdir={tmp_path}')
  with pytest.raises(InputError, match=message):
    run_job('report', f'--out={tmp_path / "out.md"}', *flags)
