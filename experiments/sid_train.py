r"""Trains speaker identifiers, one for each seed.

  python -m experiments.sid_train --dataset=arabic_speech_commands \
    --split=session --data_dir=DIR --workdir=runs/speakers

What it does stands in `experiments.train`.
"""

from absl import flags

from experiments import cli
from experiments import train

flags.adopt_module_key_flags(train)


def main() -> None:
  """Runs the job."""
  train.main('sid')


if __name__ == '__main__':
  cli.run(main)
