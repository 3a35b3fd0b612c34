"""Several jobs side by side."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax.evaluation.evaluate import evaluate
from unlearn_jax.reporting import records
from unlearn_jax.types import InputError


@pytest.fixture(scope='module')
def cards():
  """Cards of three models; one metric stands for that of the voice."""
  rng = np.random.default_rng(0)
  models = {name: rng.normal(size=(4, 3)) for name in ('original', 'ssd')}
  sets = {
    name: {'x': rng.normal(size=(40, 4)), 'label': np.arange(40) % 3}
    for name in ('forget', 'retain', 'test')
  }
  found = evaluate(
    lambda params, batch: batch['x'] @ params,
    {'ssd': models['ssd']},
    sets,
    retrained=[rng.normal(size=(4, 3)) for _ in range(2)],
    original=models['original'],
  )
  shown = {'accuracy.forget': 'accuracy.forget'}
  shown |= {
    'loss.forget': 'leakage.enrolment.5',
    'accuracy.retain': 'cost.rte',
  }
  return [
    dataclasses.replace(card, name=shown[card.name])
    for card in found
    if card.name in shown
  ]


def write(cards, folder, change):
  """Writes records of a job with other values, 0.1 either way."""
  folder.mkdir()
  changed = [
    dataclasses.replace(c, value=x, ci_low=x - 0.1, ci_high=x + 0.1)
    for c in cards
    for x in [change(c)]
  ]
  records.write(folder / 'records.jsonl', changed)


def rows_of(text):
  lines = [line.strip('| ').split(' | ') for line in text.splitlines()]
  header, _, *rows = (line for line in lines if len(line) > 1)
  return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_mean_and_half_the_range(cards, run_job, tmp_path, capsys):
  write(cards, tmp_path / 'a', lambda c: 0.25)
  write(cards, tmp_path / 'b', lambda c: 0.75)
  capsys.readouterr()
  jobs = [f'--jobs={tmp_path / name}' for name in 'ab']
  run_job('summary', '--workdir=unused', *jobs)
  rows = rows_of(capsys.readouterr().out)
  assert list(rows) == ['original', 'retrain', 'ssd']
  assert rows['ssd']['forget %'] == '50.0 ± 25.0'
  assert rows['ssd']['times faster'] == '0.5 ± 0.2'
  assert {row['within'] for row in rows.values()} == {'yes'}  # All equal.


def test_within_means_in_every_job(cards, run_job, tmp_path, capsys):
  def change(card):
    shift = {'original': -0.09, 'ssd': 0.11}
    return shift.get(card.provenance['method'], 0.0)

  write(cards, tmp_path / 'a', lambda c: 0.0)
  write(cards, tmp_path / 'b', change)
  capsys.readouterr()
  jobs = [f'--jobs={tmp_path / name}' for name in 'ab']
  run_job('summary', '--workdir=unused', *jobs)
  rows = rows_of(capsys.readouterr().out)
  assert [row['within'] for row in rows.values()] == ['yes', 'yes', 'no']


def test_bad_input(run_job, tmp_path):
  with pytest.raises(InputError, match='--jobs: must be given'):
    run_job('summary', '--workdir=unused')
  with pytest.raises(InputError, match='records.jsonl: cannot be read'):
    run_job('summary', '--workdir=unused', f'--jobs={tmp_path}')
