"""Several jobs side by side."""

import dataclasses

import pytest
from test_kws_unlearn import FLAGS

from unlearn_jax.reporting import records
from unlearn_jax.types import InputError


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  folder = tmp_path_factory.mktemp('job') / 'workdir'
  run_job(
    'kws_unlearn',
    f'--workdir={folder}',
    *FLAGS,
    '--methods=ssd',
    '--forget=speaker:speaker_001',
  )
  return folder


def changed(workdir, folder, change):
  """Copies the records of a job with other values, 0.1 either way."""
  folder.mkdir()
  cards = [
    dataclasses.replace(c, value=x, ci_low=x - 0.1, ci_high=x + 0.1)
    for c in records.read(workdir / 'records.jsonl')
    for x in [change(c)]
  ]
  records.write(folder / 'records.jsonl', cards)


def rows_of(text):
  lines = [line.strip('| ').split(' | ') for line in text.splitlines()]
  header, _, *rows = (line for line in lines if len(line) > 1)
  return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_mean_and_half_the_range(workdir, run_job, tmp_path, capsys):
  changed(workdir, tmp_path / 'a', lambda c: 0.25)
  changed(workdir, tmp_path / 'b', lambda c: 0.75)
  capsys.readouterr()
  jobs = [f'--jobs={tmp_path / name}' for name in 'ab']
  run_job('summary', '--workdir=unused', *jobs)
  rows = rows_of(capsys.readouterr().out)
  assert list(rows) == ['original', 'retrain', 'ssd']
  assert rows['ssd']['forget %'] == '50.0 ± 25.0'
  assert rows['ssd']['times faster'] == '0.5 ± 0.2'
  assert {row['within'] for row in rows.values()} == {'yes'}  # All equal.


def test_within_means_in_every_job(workdir, run_job, tmp_path, capsys):
  def change(card):
    shift = {'original': -0.09, 'ssd': 0.11}
    return shift.get(card.provenance['method'], 0.0)

  changed(workdir, tmp_path / 'a', lambda c: 0.0)
  changed(workdir, tmp_path / 'b', change)
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
