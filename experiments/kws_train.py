r"""Trains keyword spotters, one for each seed.

  python -m experiments.kws_train --dataset=arabic_speech_commands \
    --data_dir=DIR --workdir=runs/original

What it does stands in `experiments.train`.
"""

from absl import flags

from experiments import cli
from experiments import train

flags.adopt_module_key_flags(train)


def main() -> None:
  """Runs the job."""
  train.main('kws')


if __name__ == '__main__':
  cli.run(main)
