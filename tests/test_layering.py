"""Imports go in one direction, and the core needs only its own packages."""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'unlearn_jax'

# A folder imports only from those before it, and from `types`.
ORDER = (
  'types',
  'datasets',
  'features',
  'per_example',
  'models',
  'training',
  'methods',
  'populations',
  'evaluation',
  'reporting',
)
CORE = (
  'types',
  'per_example',
  'models',
  'training',
  'methods',
  'populations',
  'evaluation',
)
# What the core takes from folders that are not part of it.
CORE_HELPERS = (
  'datasets.batches',
  'datasets.crops',
  'datasets.trials',
  'features.augment',
  'features.log_mel',
  'features.mfcc',
)
SOURCES = sorted(PACKAGE.rglob('*.py'))


def folder_of(module: str) -> str:
  """Maps 'unlearn_jax.training.fit' to 'training'."""
  return module.split('.')[1]


def imported_modules(path: pathlib.Path) -> list[str]:
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.stem)
def test_imports_go_one_way(path):
  if path.parent == PACKAGE and path.stem == '__init__':
    return
  own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  for name in imported_modules(path):
    assert not name.startswith('experiments'), f'{path} imports {name}'
    if name.startswith('unlearn_jax.'):
      allowed = ORDER[: ORDER.index(own) + 1]
      assert folder_of(name) in allowed, f'{path} imports {name}'


def test_flax_modules_stay_in_models():
  for path in SOURCES:
    names = imported_modules(path)
    if any(n.startswith(('flax.linen', 'flax.nnx')) for n in names):
      assert path.parent.name == 'models', path


def test_orbax_stays_in_one_file():
  users = [p for p in SOURCES if any('orbax' in n for n in imported_modules(p))]
  assert users == [PACKAGE / 'training' / 'checkpoint.py']


def test_files_are_short():
  for path in [*SOURCES, *(ROOT / 'experiments').rglob('*.py')]:
    assert len(path.read_text().splitlines()) <= 300, path


def test_core_imports_with_its_requirements_alone():
  """Hides every installed package that the core does not depend on."""
  modules = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in SOURCES
    if path.relative_to(PACKAGE).parts[0].removesuffix('.py') in CORE
  ]
  modules += [f'unlearn_jax.{name}' for name in CORE_HELPERS]
  script = f"""
    import importlib, importlib.metadata as metadata, re, sys

    def norm(name):
      return re.sub('[-_.]+', '-', name).lower()

    def requirements(name):
      for text in metadata.requires(name) or ():
        if 'extra' not in text.partition(';')[2]:
          yield norm(re.match('[A-Za-z0-9._-]+', text)[0])

    needed, waiting = set(), list(requirements('unlearn_jax'))
    while waiting:
      name = waiting.pop()
      try:
        if name not in needed:
          waiting += requirements(name)
        needed.add(name)
      except metadata.PackageNotFoundError:
        pass  # For another platform.
    hidden = {{
      top
      for top, owners in metadata.packages_distributions().items()
      if not needed & set(map(norm, owners))
    }} - {{'unlearn_jax'}}
    assert 'librosa' in hidden and 'jax' not in hidden, hidden

    class Hide:
      def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in hidden:
          raise ModuleNotFoundError(f'{{name}} is hidden')

    sys.meta_path.insert(0, Hide())
    for name in {modules!r}:
      importlib.import_module(name)
    print('imported')
  """
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert result.stdout.strip() == 'imported', result.stderr
