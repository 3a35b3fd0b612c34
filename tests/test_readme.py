"""The README's Python code runs, and what it names exists."""

import pathlib
import re

from unlearn_jax.datasets import registry as datasets
from unlearn_jax.methods import registry as methods
from unlearn_jax.methods import table
from unlearn_jax.models import registry as models
from unlearn_jax.models import table as networks

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()


def test_python_code_runs(capsys):
  blocks = re.findall(r'```python\n(.*?)```', README, re.S)
  assert blocks
  for block in blocks:
    exec(compile(block, 'README.md', 'exec'), {})
  assert capsys.readouterr().out == '(4, 2) (20,)\n50.0 retrain\n16 True\n'


def test_every_method_corpus_and_network_is_named():
  names = [*methods.METHODS, *models.NETWORKS]
  names += [name for name in datasets.names() if not name.endswith('/tiny')]
  for name in names:
    assert f'`{name}`' in README, name


def test_tables_of_methods_are_those_of_the_registry():
  for made in (table.methods_table(), table.wrappers_table()):
    assert made in README, (
      'put in what python -m unlearn_jax.methods.table says'
    )


def test_files_and_commands_exist():
  for path in re.findall(
    r'(?:tests/)?(?:experiments|benchmarks)/[\w/]+\.\w+', README
  ):
    assert (ROOT / path).exists(), path
  for module in re.findall(r'python -m (experiments\.\w+)', README):
    assert (ROOT / f'{module.replace(".", "/")}.py').exists(), module


def test_table_of_networks_is_that_of_the_registry():
  assert networks.networks_table() in README, (
    'put in what python -m unlearn_jax.models.table says'
  )
