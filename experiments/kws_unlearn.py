r"""Unlearns recordings from keyword spotters and compares with retraining.

  python -m experiments.kws_unlearn \
    --flagfile=experiments/flagfiles/quickstart.cfg

What it does stands in `experiments.unlearn`.
"""

from absl import flags

from experiments import cli
from experiments import unlearn

flags.adopt_module_key_flags(unlearn)


def main() -> None:
  """Runs the job."""
  unlearn.main('kws')


if __name__ == '__main__':
  cli.run(main)
