"""The folder of a job: its flags, and what each run left there."""

from collections.abc import Mapping
import fcntl
import os
import pathlib
from typing import Any

from unlearn_jax.reporting.records import write_text
from unlearn_jax.types import InputError

_FLAGS, _LOCK, _GUARD = 'flags.txt', '.lock', '.flags.lock'
# Kept open, so that they hold until the process ends.
_locks: dict[pathlib.Path, int] = {}


def open_workdir(
  path: str,
  settings: Mapping[str, Any],
  others: Mapping[str, Any],
  *,
  newer: Mapping[str, Any] | None = None,
  is_shared: bool = False,
) -> pathlib.Path:
  """Makes the folder, or finds one that the same settings made.

  `flags.txt` in it reproduces the job by `--flagfile`. The folder is locked
  until the process ends.

  Args:
    path: the value of `--workdir`.
    settings: what decides the results; where there are runs, they must be
      those that made them. A list stands for a flag given several times.
    others: flags that may change from job to job.
    newer: of settings that a folder may be older than, what it was made with.
    is_shared: whether other jobs that share it may use it at the same time.

  Raises:
    InputError: if the folder cannot be written, another job uses it, or other
      settings made it.
  """
  folder = pathlib.Path(path).expanduser()
  flag_file = folder / _FLAGS
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _check_ours(folder)
    _lock(folder, is_shared)
    lines = _lines(settings)
    made = [*folder.glob('seed_*'), *folder.glob('members')]
    made += folder.glob('*/seed_*')  # Of a study.
    with open(folder / _GUARD, 'w') as guard:  # Of jobs that share it.
      fcntl.flock(guard, fcntl.LOCK_EX)
      if made:  # Else the settings may still change.
        old = flag_file.read_text('utf-8').splitlines()
        _check_same(folder, old, settings, newer or {})
      text = '\n'.join([*lines, *_lines(others)])
      write_text(flag_file, f'{text}\n')
  except OSError as error:
    raise InputError(
      f'--workdir={path}: must be a folder that can be written '
      f'({error.strerror}).'
    ) from error
  return folder


def _lines(flags: Mapping[str, Any]) -> list[str]:
  """Returns the lines of a flagfile; None is left out."""
  lines = []
  for name, value in flags.items():
    values = value if isinstance(value, list) else [value]
    lines += [f'--{name}={v}' for v in values if v is not None]
  return lines


def _check_ours(folder):
  names = {path.name for path in folder.iterdir()}
  if names - {_LOCK, _GUARD, f'{_FLAGS}.partial'} and _FLAGS not in names:
    raise InputError(
      f'--workdir={folder}: holds other files and no {_FLAGS}; must be new, '
      'empty or of an earlier job.'
    )


def _lock(folder, is_shared):
  if folder.resolve() in _locks:
    return
  # A number and no file object: it is held until the process ends.
  lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o666)
  try:
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    fcntl.flock(lock, kind | fcntl.LOCK_NB)
    _locks[folder.resolve()] = lock
  except BlockingIOError:
    os.close(lock)
    raise InputError(
      f'--workdir={folder}: another job is running there; must be left alone '
      'until it ends.'
    ) from None


def _check_same(folder, old_lines, settings, newer):
  differing = []
  for name, value in settings.items():
    was = [line for line in old_lines if line.startswith(f'--{name}=')]
    now = _lines({name: value})
    if was != now and (was or now != _lines({name: newer.get(name)})):
      old = ' '.join(was) or f'no --{name}'
      new = ' '.join(now) or f'no --{name}'
      differing.append(f'{old} there, {new} now')
  if differing:
    raise InputError(
      f'--workdir={folder}: was made by another configuration: '
      f'{"; ".join(differing)}. Must be another folder, or the same flags.'
    )
