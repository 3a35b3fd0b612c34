"""Runs one job many times in one process, with other flags each time.

A process of its own, since two jobs may have flags of the same name.

  python run_apart.py evaluate '[["--workdir=a"], ["--workdir=b"]]'

prints a JSON list: the error of each call, or '' where there is none.
"""

import contextlib
import importlib
import io
import json
import sys

from absl import flags
from absl.testing import flagsaver

from unlearn_jax.types import InputError


def main() -> None:
  name, calls = sys.argv[1], json.loads(sys.argv[2])
  job = importlib.import_module(f'experiments.{name}')
  errors = []
  for args in calls:
    with flagsaver.flagsaver(), contextlib.redirect_stdout(io.StringIO()):
      flags.FLAGS([name, *args])
      try:
        job.main()
        errors.append('')
      except InputError as error:
        errors.append(str(error))
  print(json.dumps(errors))


if __name__ == '__main__':
  main()
