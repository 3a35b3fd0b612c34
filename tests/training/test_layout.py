"""Eight simulated devices, in a process of its own, against one."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from unlearn_jax.types import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEVICES, SAMPLES, EPOCHS = 8, 1_600, 1
# A rule that begins with a gradient of 0 would follow rounding.
RUNS = (
  ('last_k:npo', (8, 1)),
  ('lora:neg_grad_plus', (2, 4)),
  ('neg_grad_plus', (1, 8)),
)


def setup():
  """Returns a pretrained problem, examples, and rows of the two sets."""
  import pretrained_folders

  from unlearn_jax.methods.spec import Problem
  from unlearn_jax.models.pretrained.build import build
  from unlearn_jax.models.pretrained.classifier import Network
  from unlearn_jax.models.pretrained.folder import Pretrained
  from unlearn_jax.training.losses import cross_entropy

  config = pretrained_folders.config('hubert_large')
  config |= {'hidden_size': 64, 'intermediate_size': 128}
  network = Network.read('test', config)
  params = jax.tree.map(
    lambda x: x + 0.02 * jax.random.normal(jax.random.key(1), x.shape),
    network.init(jax.random.key(0)),
  )
  made = build(Pretrained('', network, params, True, {}, {}))
  problem = Problem(
    cross_entropy(made.predict_fn),
    made.predict_fn,
    made.init_fn,
    input_name='waveform',
    blocks=made.blocks,
    stacks=made.stacks,
    is_linear=made.is_linear,
  )
  rng = np.random.default_rng(0)
  examples = {
    'waveform': rng.integers(-999, 999, (40, SAMPLES)).astype(np.int16),
    'label': rng.integers(0, 5, 40).astype(np.int32),
  }
  return problem, params, examples, (np.arange(8), np.arange(8, 40))


def unlearn(name, layout=None, checkpoints=None, epochs=EPOCHS):
  """Runs a method as the jobs do."""
  from unlearn_jax.methods import registry
  from unlearn_jax.training import fit
  from unlearn_jax.training import loop

  problem, params, examples, rows = setup()
  row = registry.spec(name)
  preset = row.preset
  method = row.build(problem, preset.optimizer(), **preset.options)
  if layout is not None:
    examples = layout.replicated(examples)
  result = fit.fit(
    fit.Program(method),
    loop.init(method, params, jax.random.key(0)),
    epochs,
    lambda epoch: row.epoch_batches(preset, *rows, epoch=epoch, seed=(0,)),
    examples,
    checkpoints=checkpoints,
    checkpoint_every_s=0.0,
    layout=layout,
  )
  return result.state.params


def cut_short(path, layout):
  """Leaves the checkpoint of a run of two epochs that was killed after one."""
  from unlearn_jax.training import progress

  save = progress.Saver.save

  def save_and_die(self, tree, made):
    save(self, tree, made)
    if made.epochs == 1:
      raise KeyboardInterrupt

  progress.Saver.save = save_and_die
  try:
    unlearn('neg_grad_plus', layout, path, 2)
  except KeyboardInterrupt:
    pass
  progress.Saver.save = save


def compare(got, want):
  """Returns the largest difference, over the largest change."""
  return max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  )


def check():
  """Returns what the tests look at."""
  from unlearn_jax.training import layout as layouts

  found = {}
  for name, shape in RUNS:
    want = unlearn(name)
    got = unlearn(name, layouts.make(shape))
    found[name] = compare(got, want) / compare(want, setup()[1])
  kernel = got['layers']['expand']['kernel']
  found['spec'] = list(kernel.sharding.spec)
  found['share'] = kernel.addressable_shards[0].data.size / kernel.size
  # A run that was cut after an epoch goes on in another layout.
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    cut_short(path, layouts.make((2, 4)))
    latest = unlearn('neg_grad_plus', layouts.make((4, 2)), path, 2)
  whole = unlearn('neg_grad_plus', epochs=2)
  found['resumed'] = compare(latest, whole) / compare(whole, setup()[1])
  for text in ('3x2', '8', '0x8', 'axb'):
    try:
      layouts.parse(text)
    except InputError as error:
      found[text] = str(error)
  found['parsed'] = dict(layouts.parse('4x2').mesh.shape)
  return found


def check_process(process, port, path):
  """Runs one of two processes; the first writes the parameters."""
  from jax.experimental import multihost_utils

  from unlearn_jax.training import layout as layouts

  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, process)
  assert jax.device_count() == DEVICES
  made = unlearn(RUNS[-1][0], layouts.make((2, 4)))
  made = multihost_utils.process_allgather(made, tiled=True)
  if process == 0:
    np.savez(path, *jax.tree.leaves(made))


def launch(devices, *arguments):
  env = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
  }
  env['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  env['PYTHONPATH'] = f'{ROOT}:{ROOT / "tests"}'
  return subprocess.Popen(
    [sys.executable, __file__, *arguments],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope='module')
def found():
  process = launch(DEVICES)
  stdout, stderr = process.communicate()
  assert process.returncode == 0, stderr[-2000:]
  return json.loads(stdout.splitlines()[-1])


def test_two_processes_share_a_model(tmp_path):
  path = tmp_path / 'params.npz'
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  both = [launch(DEVICES // 2, str(i), port, str(path)) for i in range(2)]
  try:
    said = [process.communicate(timeout=300)[1] for process in both]
  finally:
    for process in both:
      process.kill()
  assert not any(process.returncode for process in both), said[0][-2000:]
  made = np.load(path)
  want, start = unlearn(RUNS[-1][0]), setup()[1]
  got = [made[name] for name in made.files]
  assert compare(got, want) < 0.01 * compare(want, start)


def test_results_are_those_of_one_device(found):
  for name, _ in RUNS:
    assert found[name] < 0.01, name


def test_kernels_are_cut(found):
  assert found['spec'] == [None, None, 'model']
  assert found['share'] == 1 / 8


def test_a_checkpoint_goes_on_in_another_layout(found):
  assert found['resumed'] < 0.01


def test_meshes_that_do_not_fit(found):
  assert 'needs 6 devices, and there are 8' in found['3x2']
  for text in ('8', '0x8', 'axb'):
    assert 'must be two whole numbers' in found[text]
  assert found['parsed'] == {'data': 4, 'model': 2}


if __name__ == '__main__':
  if len(sys.argv) > 1:
    check_process(int(sys.argv[1]), *sys.argv[2:])
  else:
    assert jax.device_count() == DEVICES
    print(json.dumps(check()))
