r"""Trains keyword spotters, one for each seed.

  python -m experiments.kws_train --dataset=arabic_speech_commands \
    --data_dir=DIR --workdir=runs/original

Model n lies in <workdir>/seed_<n>/original/model; `--checkpoint` of
`experiments.kws_unlearn` takes that folder.
"""

from experiments import cli
from experiments import jobs
from experiments import settings
from experiments.kws import make_cell
from experiments.runs import Run
from unlearn_jax.evaluation.outcome import ORIGINAL


def main() -> None:
  """Runs the job."""
  job = jobs.open_job(settings.training_settings(), {}, {}, {})
  cells, outcomes = [], []
  for seed in range(settings.SEEDS.value):
    cells.append(make_cell(job.task, None, seed, split_seed=seed))
    run = Run(ORIGINAL, seed)
    outcomes.append(job.runner.outcome(cells[-1], run, None))
    cards = job.write_records(cells, outcomes)
  jobs.print_table(cards)
  print(f'Models: {job.workdir}/seed_*/original/model')


if __name__ == '__main__':
  cli.run(main)
