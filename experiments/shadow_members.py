"""Members of a population: how they run, what they say, what is kept."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import sys
from typing import Any, cast

from absl import flags
import numpy as np
import tqdm

from experiments import jobs
from experiments import settings
from experiments import shadow_report
from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError, Params

CHUNK = flags.DEFINE_integer(
  'chunk',
  8,
  'Models trained at a time: memory grows with it, and a kill costs as many.',
  lower_bound=1,
)
STRATEGY = flags.DEFINE_enum(
  'strategy',
  'auto',
  ['auto', 'map', 'vmap'],
  'Models of a chunk one after another or all together; auto: by platform.',
)


def settings_of_run() -> dict[str, Any]:
  """Returns the flags that say how, and decide no result."""
  return {'chunk': CHUNK.value, 'strategy': STRATEGY.value}


@contextlib.contextmanager
def execution(folder: pathlib.Path, epochs: int) -> Iterator[train.Execution]:
  """Gives how to run, by the flags, with a progress bar.

  Args:
    folder: where finished members are kept.
    epochs: of all members together.
  """
  bar = tqdm.tqdm(
    total=epochs,
    desc=folder.name,
    unit='epoch',
    disable=not (settings.PROGRESS.value and sys.stderr.isatty()),
  )

  def show(done, total):
    del total
    if done > bar.n + CHUNK.value:  # Resumed: the rate is of this process.
      bar.initial = done
    bar.update(done - bar.n)

  try:
    made = train.Execution(
      chunk=CHUNK.value,
      strategy=cast(program.Strategy, STRATEGY.value),
      mesh=program.make_mesh(),
      folder=folder,
      on_epoch=show,
    )
  except ValueError as error:
    raise InputError(f'--{error}') from error
  with bar:
    yield made


def score(
  job: jobs.Job, params: Params, made: str, rows: np.ndarray
) -> shadow_report.Scored:
  """Saves the logits of all members, once; returns what they say.

  Args:
    job: of the population.
    params: of the members, [members, ...].
    made: ends the names of their folder and of the file of logits.
    rows: the training utterances.

  Raises:
    NonFiniteLossError: if a member diverged.
  """
  path, label = logits_path(job, made), job.task.label
  if _is_of(path, job.workdir / f'members{made}'):
    with np.load(path) as saved:
      logits = saved['logits']
  else:
    logits = program.logits(
      job.task.classifier.predict_fn,
      params,
      job.task.examples,
      strategy=cast(program.Strategy, STRATEGY.value),
    )
    save(path, logits=logits, label=label)
  if bad := int((~np.isfinite(logits)).any((1, 2)).sum()):
    raise NonFiniteLossError(
      f'{path}: {bad} of {len(logits)} members diverged; lower the learning '
      'rate.'
    )
  return shadow_report.score(logits, label, rows)


def logits_path(job: jobs.Job, made: str) -> pathlib.Path:
  """Returns the file of logits of members; for `made`, see `score`."""
  return job.workdir / f'logits{made}.npz'


def _is_of(path, folder):
  """Says whether a file is newer than all in a folder."""
  if not path.exists():
    return False
  made = path.stat().st_mtime_ns
  return all(of.stat().st_mtime_ns < made for of in folder.rglob('*'))


def save(path: pathlib.Path, **arrays: Any) -> None:
  """Writes the whole file or nothing."""
  part = path.with_name(f'{path.stem}.part.npz')
  np.savez_compressed(part, **arrays)
  os.replace(part, path)
