"""What every job shares: parsing flags, and errors of one line."""

from collections.abc import Callable, Sequence
import gc
from logging import LogRecord
import os
import pathlib
import sys
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
import jax
import tqdm

from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.training.fit import Progress
from unlearn_jax.types import InputError

EXIT_CODE = 1
_MAPPINGS = pathlib.Path('/proc/self/maps')
_MOST_MAPPINGS = pathlib.Path('/proc/sys/vm/max_map_count')

OnEpoch = Callable[[int, Progress], None]
ShowProgress = Callable[[str, int], OnEpoch | None]


def run(main: Callable[[], None]) -> None:
  """Parses the flags and runs `main`; bad input ends in one line."""

  def guarded(argv: Sequence[str]) -> None:
    # Orbax tells of every file, and of errors that it raises too; JAX of every
    # backend that is not there.
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
      logging.get_absl_handler().addFilter(_is_not_of_orbax)
    try:
      if len(argv) > 1:
        raise InputError(
          f'{argv[1]!r} is no flag: every argument, and every line of a '
          'flagfile, must be --name=value or a # comment.'
        )
      main()
    except (InputError, NonFiniteLossError) as error:
      fail(str(error))
    except KeyboardInterrupt:
      fail('interrupted; the same command goes on where it was.')
    except OSError as error:
      where = f'{error.filename}: ' if error.filename else ''
      fail(f'{where}{error.strerror or error}.')

  app.run(guarded, flags_parser=_parse)


def _is_not_of_orbax(record: LogRecord) -> bool:
  return 'orbax' not in pathlib.Path(record.pathname).parts


def fail(message: str) -> NoReturn:
  """Prints one line and exits with a code that is not zero."""
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(EXIT_CODE)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    fail(f'{error} (--help lists the flags)')
  except UnicodeDecodeError as error:
    fail(f'--flagfile: must be UTF-8 text and is not ({error}).')


def use_compilation_cache(cache_dir: pathlib.Path) -> None:
  """Keeps compiled programs on disk: the next run starts at once."""
  jax.config.update('jax_compilation_cache_dir', str(cache_dir / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def has_many_mappings() -> bool:
  """Says whether a quarter of the memory mappings of a process are used up.

  Every compiled program takes some hundred on a CPU, and keeps them while it is
  held. At the limit of Linux (65,530) the next one ends the process.
  """
  try:
    limit = int(_MOST_MAPPINGS.read_text())
    with _MAPPINGS.open() as file:
      return sum(1 for _ in file) > limit / 4
  except (OSError, ValueError):  # Not Linux.
    return False


def drop_compiled() -> None:
  """Drops compiled programs that nothing holds but JAX."""
  jax.clear_caches()
  gc.collect()


def progress_bars(enabled: bool) -> ShowProgress:
  """Returns what makes a progress bar, with rate and time left, for each run.

  Where the output is no terminal, a run prints one line when it ends.
  """

  def show(title: str, epochs: int) -> OnEpoch | None:
    if not enabled:
      return None
    is_terminal = sys.stderr.isatty()
    bar = tqdm.tqdm(
      total=epochs, desc=title, unit='epoch', disable=not is_terminal
    )

    def on_epoch(done: int, progress: Progress) -> None:
      if done > bar.n + 1:  # Resumed: the rate is of this process.
        bar.n = bar.initial = done - 1
      bar.update()
      bar.set_postfix(
        {
          'clips/s': round(progress.examples / max(progress.run_s, 1e-9)),
          'validation': f'{progress.curves["validation_accuracy"][-1]:.3f}',
        }
      )
      if done == epochs:
        bar.close()
        if not is_terminal:
          print(f'{title}: {epochs} epochs, {progress.run_s:.1f} s', flush=True)

    return on_epoch

  return show


def default_cache_dir() -> str:
  """Returns the folder for caches, after the XDG convention."""
  base = os.environ.get('XDG_CACHE_HOME', '~/.cache')
  return str(pathlib.Path(base).expanduser() / 'unlearn_jax')
