"""Trains the original models, one for each seed: kws_train and sid_train.

Model n lies in <workdir>/seed_<n>/original/model; `--checkpoint` of the job
that unlearns takes that folder.
"""

from experiments import jobs
from experiments import settings
from experiments.cells import make_cell
from experiments.cells import Run
from unlearn_jax.evaluation.outcome import ORIGINAL


def main(task: str) -> None:
  """Runs the job.

  Args:
    task: 'kws' or 'sid'.
  """
  job = jobs.open_job(settings.training_settings(task), {}, {}, {})
  cells, outcomes = [], []
  for seed in range(settings.SEEDS.value):
    cells.append(make_cell(job.task, None, seed, split_seed=seed))
    run = Run(ORIGINAL, seed)
    outcomes.append(job.runner.outcome(cells[-1], run, None))
    cards = job.write_records(cells, outcomes)
  jobs.print_table(cards)
  print(f'Models: {job.workdir}/seed_*/original/model')
