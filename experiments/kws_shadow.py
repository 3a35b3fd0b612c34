r"""Trains a population of keyword spotters that each saw half of the data.

  python -m experiments.kws_shadow --dataset=arabic_speech_commands \
    --data_dir=DIR --members=64 --workdir=runs/shadow

What it does stands in `experiments.shadow`.
"""

from absl import flags

from experiments import cli
from experiments import shadow

flags.adopt_module_key_flags(shadow)


def main() -> None:
  """Runs the job."""
  shadow.main('kws')


if __name__ == '__main__':
  cli.run(main)
