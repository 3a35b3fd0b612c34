r"""Unlearns speakers or recordings from speaker identifiers.

  python -m experiments.sid_unlearn --data_dir=DIR \
    --flagfile=experiments/flagfiles/arabic_identity.cfg

What it does stands in `experiments.unlearn`.
"""

from absl import flags

from experiments import cli
from experiments import unlearn

flags.adopt_module_key_flags(unlearn)


def main() -> None:
  """Runs the job."""
  unlearn.main('sid')


if __name__ == '__main__':
  cli.run(main)
