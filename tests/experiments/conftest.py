"""Runs jobs inside the test process, on a corpus of a hundred clips."""

from collections.abc import Callable, Iterator
import json
import os
import pathlib
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import array_record.python.array_record_data_source  # Defines flags. # noqa: F401
import grain  # Likewise. # noqa: F401
import problems
import pytest

from experiments import benchmark
from experiments import export
from experiments import fooled
from experiments import kws_shadow
from experiments import kws_train
from experiments import kws_unlearn
from experiments import paper_table
from experiments import report
from experiments import sid_shadow
from experiments import sid_train
from experiments import sid_unlearn
from experiments import summary

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_MAINS = {
  'benchmark': benchmark.main,
  'export': export.main,
  'fooled': fooled.main,
  'kws_shadow': kws_shadow.main,
  'kws_train': kws_train.main,
  'kws_unlearn': kws_unlearn.main,
  'paper_table': paper_table.main,
  'report': report.main,
  'sid_shadow': sid_shadow.main,
  'sid_train': sid_train.main,
  'sid_unlearn': sid_unlearn.main,
  'summary': summary.main,
}

Job = Callable[..., None]


@pytest.fixture(scope='module', autouse=True)
def _optimise() -> Iterator[None]:
  """Whole jobs run for longer than they compile."""
  with problems.optimised():
    yield


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory, compiled_dir) -> pathlib.Path:
  """Shared by all jobs: corpora, features and programs are made once."""
  folder = tmp_path_factory.mktemp('cache')
  (folder / 'compiled').symlink_to(compiled_dir)
  return folder


@pytest.fixture(scope='session')
def job_flags(cache_dir) -> list[str]:
  """Flags of a small job; the last value of a flag counts."""
  return [
    '--dataset=espeak_commands/tiny',
    '--model=x_vector_small',  # Quick to compile.
    f'--cache_dir={cache_dir}',
    '--noprogress',
    '--epochs=3',
    '--batch_size=20',
  ]


@pytest.fixture(scope='session')
def run_job(job_flags) -> Job:
  """Returns what runs a job: run_job('kws_train', '--workdir=...')."""

  def run(name: str, *args: str) -> None:
    with flagsaver.flagsaver():
      rest = flags.FLAGS([name, *job_flags, *args])
      assert rest == [name]
      _MAINS[name]()

  return run


@pytest.fixture(scope='session')
def start_job(job_flags) -> Callable[..., subprocess.Popen]:
  """Returns what starts a job as its user does, in a process of its own."""

  def start(name: str, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
      [sys.executable, '-m', f'experiments.{name}', *job_flags, *args],
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture(scope='session')
def run_apart(job_flags) -> Callable[[str, list[list[str]]], list[str]]:
  """Returns what runs a job in another process, once for each list of flags.

  The result is the error of each, '' where there is none.
  """

  def run(name: str, calls: list[list[str]]) -> list[str]:
    script = pathlib.Path(__file__).with_name('run_apart.py')
    made = subprocess.run(
      [
        sys.executable,
        str(script),
        name,
        json.dumps([[*job_flags, *args] for args in calls]),
      ],
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout.splitlines()[-1])

  return run
