"""A job that is killed ends in the same records."""

import signal
import time

import numpy as np
from test_kws_unlearn import metrics

from unlearn_jax.evaluation import outcome as outcomes


def wait_for_checkpoint(folder, job):
  """Returns once a run has a checkpoint beyond its first epoch."""
  deadline = time.monotonic() + 120
  while not any(
    path.name.isdigit() and int(path.name) >= 8 for path in folder.glob('*')
  ):
    assert job.poll() is None, job.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.002)


def test_killed_job_ends_in_the_same_records(start_job, run_job, tmp_path):
  """Kills twice, each time in a run that has a checkpoint."""
  flags = [
    '--forget=keyword:up',
    '--methods=scrub_rewind',
    '--preset=scrub_rewind.epochs=12',
    '--epochs=12',
    '--retrain_replicates=1',
  ]
  run_job('kws_unlearn', f'--workdir={tmp_path / "whole"}', *flags)
  killed = tmp_path / 'killed'
  flags += [f'--workdir={killed}', '--checkpoint_every_s=0']
  for name in ('retrain', 'scrub_rewind'):
    job = start_job('kws_unlearn', *flags)
    wait_for_checkpoint(killed / 'seed_0' / name / 'running', job)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    assert not (killed / 'seed_0' / name / 'outcome.npz').exists()
  run_job('kws_unlearn', *flags)
  assert metrics(killed) == metrics(tmp_path / 'whole')
  for path in (tmp_path / 'whole').rglob('outcome.npz'):
    whole = outcomes.load(path)
    again = outcomes.load(killed / path.relative_to(tmp_path / 'whole'))
    for name, logits in whole.logits.items():
      np.testing.assert_array_equal(again.logits[name], logits)
    for name, curve in whole.curves.items():
      np.testing.assert_array_equal(again.curves[name], curve)
