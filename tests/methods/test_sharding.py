"""Every row on a mesh of eight simulated devices, in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from unlearn_jax.methods.registry import METHODS
from unlearn_jax.methods.spec import Problem
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

DEVICES, FEATURES, CLASSES = 8, 16, 3
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def embed_fn(params, batch):
  return jnp.tanh(batch['features'] @ params['a'])


def predict_fn(params, batch):
  return embed_fn(params, batch) @ params['b'] + params['c'][None]


def map_embedding_fn(params, matrix, offset):
  b = params['b']
  return {**params, 'b': matrix @ b, 'c': params['c'] + offset @ b}


def init_fn(key):
  keys = jax.random.split(key)
  return {
    'a': jax.random.normal(keys[0], (FEATURES, 8)),
    'b': jax.random.normal(keys[1], (8, CLASSES)),
    'c': jnp.zeros(CLASSES),
  }


def make_batches(seed, steps=2, size=8):
  rng = np.random.default_rng(seed)
  mask = np.ones((steps, size), np.float32)
  mask[-1, -2:] = 0
  return {
    'features': rng.normal(size=(steps, size, FEATURES)).astype(np.float32),
    'label': rng.integers(0, CLASSES, (steps, size)).astype(np.int32),
    'id': np.arange(steps * size, dtype=np.int32).reshape(steps, size),
    'mask': mask,
  }


def run(method, params, sides):
  state = loop.init(method, params, jax.random.key(0))
  state = loop.prepare(method, state, *sides)
  return loop.run(method, state, *sides)[0].params


def check(name):
  """Returns what is wrong with a row on the mesh, or None."""
  row = METHODS[name]
  problem = Problem(
    cross_entropy(predict_fn),
    predict_fn,
    init_fn,
    blocks=('a', 'b'),
    embed_fn=embed_fn,
    embedding_size=8,
    map_embedding_fn=map_embedding_fn,
  )
  options = row.preset.options if row.preset else {}
  method = row.build(problem, optax.adam(1e-2), **options)
  params = init_fn(jax.random.key(1))
  sides = [
    make_batches(seed) if side in row.needs else None
    for seed, side in enumerate(('forget', 'retain'))
  ]
  want = run(method, params, sides)

  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ('data', 'model'), axis_types=auto)

  def put(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

  shardings = {'a': ('model', None), 'b': (None, None), 'c': (None,)}
  placed = {k: put(v, *shardings[k]) for k, v in params.items()}
  spread = jax.tree.map(lambda x: put(x, None, 'data'), sides)
  got = run(method, placed, spread)
  for k, x in got.items():
    if not x.sharding.is_equivalent_to(placed[k].sharding, x.ndim):
      return f'{k}: {x.sharding.spec} instead of {shardings[k]}'
    if not np.allclose(x, want[k], rtol=1e-3, atol=1e-4):
      return f'{k}: differs by {np.abs(x - want[k]).max()}'
  return None


@pytest.fixture(scope='module')
def found():
  env = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(DEVICES),
  }
  env['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  env['PYTHONPATH'] = str(ROOT)
  done = subprocess.run(
    [sys.executable, __file__], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', METHODS)
def test_sharding_and_result_are_kept(found, name):
  assert found[name] is None


if __name__ == '__main__':
  assert jax.device_count() == DEVICES
  names = sys.argv[1:] or list(METHODS)
  print(json.dumps({name: check(name) for name in names}))
