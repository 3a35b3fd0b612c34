"""Fixtures shared by all tests; implicit rank promotion is an error.

Programs here run for milliseconds and compile for seconds: optimised less,
they are ready in two fifths of the time.
"""

import importlib.metadata
import os
import pathlib

# Read when jax starts its first backend; later versions refuse the flag.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _FLAGS = (os.environ.get('XLA_FLAGS'), '--xla_cpu_use_fusion_emitters=false')
  os.environ['XLA_FLAGS'] = ' '.join(filter(None, _FLAGS))

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)
# By default a GPU rounds what goes into a product to ten bits.
jax.config.update('jax_default_matmul_precision', 'highest')

# The same examples every time, and no files of its own.
hypothesis.settings.register_profile(
  'same', derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile('same')

ROOT = pathlib.Path(__file__).resolve().parent.parent
_LONG = ('colab', 'experiments')  # Folders of files that take minutes.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Begins with the longest files, so that workers end at about one time."""
  items.sort(key=lambda item: item.path.parent.name not in _LONG)


@pytest.fixture(scope='session', autouse=True)
def compiled_dir(tmp_path_factory, worker_id) -> pathlib.Path:
  """Where workers keep compiled programs, for each other and later files."""
  folder = tmp_path_factory.getbasetemp()
  folder = (folder if worker_id == 'master' else folder.parent) / 'compiled'
  folder.mkdir(exist_ok=True)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  return folder


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
  """Drops what a file compiled.

  Every program is mapped into memory in pieces, and a process may have 65,530
  of those: thousands of programs in one process end in an abort.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Folder of real recordings; a test that needs it skips where it is absent.

  `UNLEARN_JAX_DATA` names it, else `../shared/data` beside the repository.
  """
  folder = pathlib.Path(
    os.environ.get('UNLEARN_JAX_DATA', ROOT.parent / 'shared' / 'data')
  )
  if not folder.is_dir():
    pytest.skip(f'no real recordings: {folder} is absent (UNLEARN_JAX_DATA)')
  return folder
