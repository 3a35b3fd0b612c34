"""On eight simulated devices, and in two processes, as on one device."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.step import descend

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FEATURES, CLASSES, SEEDS = 6, 3, tuple(range(11))
RECIPE = Recipe(epochs=2, batch_size=4, learning_rate=0.05)


def predict_fn(params, batch):
  return batch['features'] @ params['kernel']


def init_fn(key):
  return {'kernel': jax.random.normal(key, (FEATURES, CLASSES))}


METHOD = descend(cross_entropy(predict_fn), RECIPE.optimizer())


def make_population(folder=None):
  rng = np.random.default_rng(0)
  examples = {
    'features': rng.normal(size=(30, FEATURES)).astype(np.float32),
    'label': rng.integers(0, CLASSES, 30).astype(np.int32),
  }
  params = train.train_population(
    METHOD,
    init_fn,
    [rng.permutation(30)[:17] for _ in SEEDS],
    SEEDS,
    examples,
    epochs=2,
    batch_size=4,
    execution=train.Execution(chunk=8, mesh=program.make_mesh(), folder=folder),
  )
  return params['kernel']


def _launch(path, environment):
  return subprocess.Popen(
    [sys.executable, __file__, str(path)],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _free_port():
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


@pytest.mark.parametrize('processes', [1, 2])
def test_equals_one_device(tmp_path, processes):
  port = _free_port()
  launched = [
    _launch(
      tmp_path / f'{process}.npy',
      {
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={8 // processes}',
        'POPULATION_PROCESS': f'{process},{processes},{port}',
      },
    )
    for process in range(processes)
  ]
  try:
    outputs = [process.communicate(timeout=120)[0] for process in launched]
  finally:
    for process in launched:
      process.kill()
  assert not any(process.returncode for process in launched), outputs
  want = make_population()
  chunks = sorted(p.name for p in (tmp_path / 'members').iterdir())
  assert chunks == ['members_0_to_7', 'members_8_to_10']
  for process in range(processes):
    got = np.load(tmp_path / f'{process}.npy')
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def main():
  process, processes, port = os.environ['POPULATION_PROCESS'].split(',')
  if int(processes) > 1:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(
      f'127.0.0.1:{port}', int(processes), int(process)
    )
  assert len(jax.devices()) == 8
  path = pathlib.Path(sys.argv[1])
  made = make_population(path.parent / 'members')
  # All processes wrote the same chunks, and read them again.
  again = make_population(path.parent / 'members')
  np.testing.assert_array_equal(made, again)
  np.save(path, made)


if __name__ == '__main__':
  main()
