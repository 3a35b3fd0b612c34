r"""Trains a population of speaker identifiers that each saw half.

  python -m experiments.sid_shadow --dataset=arabic_speech_commands \
    --data_dir=DIR --members=64 --workdir=runs/sid_shadow

What it does stands in `experiments.shadow`.
"""

from absl import flags

from experiments import cli
from experiments import shadow

flags.adopt_module_key_flags(shadow)


def main() -> None:
  """Runs the job."""
  shadow.main('sid')


if __name__ == '__main__':
  cli.run(main)
