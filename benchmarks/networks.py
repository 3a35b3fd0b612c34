r"""Times a training step of each network beside the same one in PyTorch.

  python benchmarks/networks.py --networks=ecapa_tdnn_small,kwt1 --repeats=5

Input is noise, float32 log-mels. A step is forward, backward and AdamW; ours
runs inside a scan over the steps, as training does. That the two networks are
the same is checked on the logits first. Repeats alternate between the two;
times are medians, compile time is apart.
"""

from collections.abc import Callable
import os
import time
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
import torch
import torch.nn.functional as F
import torch_bc_resnet
import torch_kwt
import torch_layers
import torch_tdnn

from unlearn_jax.models import registry as models
from unlearn_jax.training.losses import cross_entropy

FRAMES, BINS, CLASSES = 98, 40, 20
_RATE, _DECAY = 1e-3, 1e-2
_TWINS: dict[str, Callable[[], torch.nn.Module]] = {
  'ecapa_tdnn_small': lambda: torch_tdnn.TorchECAPATDNN(
    BINS, CLASSES, 64, 192, 4, 32, 128, 8
  ),
  'kwt1': lambda: torch_kwt.TorchKWT(FRAMES, BINS, CLASSES, 64, 12),
  'bc_resnet1': lambda: torch_bc_resnet.TorchBCResNet(BINS, CLASSES, 1),
  'x_vector_small': lambda: torch_tdnn.TorchXVector(
    BINS, CLASSES, (64, 64, 64, 64, 192), 128, 8
  ),
}

_NETWORKS = flags.DEFINE_list('networks', list(_TWINS), 'What to time.')
_BATCH = flags.DEFINE_integer('batch', 100, 'Clips a step.', 1)
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps of one measurement.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repeats of each candidate.', 1)


def jax_candidate(
  classifier: models.Classifier, params: Any, batches: dict[str, jax.Array]
) -> tuple[timing.Candidate, float]:
  """Compiles the steps; returns the candidate and the compile time in s."""
  loss_fn = cross_entropy(classifier.predict_fn)
  tx = optax.adamw(_RATE, weight_decay=_DECAY)

  def step(state, batch):
    params, optimizer = state
    gradient = jax.grad(lambda p: loss_fn(p, batch).mean())(params)
    updates, optimizer = tx.update(gradient, optimizer, params)
    return (optax.apply_updates(params, updates), optimizer), None

  def steps(state, batches):
    return jax.lax.scan(step, state, batches)[0]

  state = (params, tx.init(params))
  start = time.perf_counter()
  compiled = jax.jit(steps).lower(state, batches).compile()
  compile_s = time.perf_counter() - start

  def candidate():
    nonlocal state
    state = jax.block_until_ready(compiled(state, batches))

  return candidate, compile_s


def torch_candidate(
  network: torch.nn.Module, features: np.ndarray, label: np.ndarray
) -> timing.Candidate:
  optimizer = torch.optim.AdamW(
    network.parameters(), _RATE, weight_decay=_DECAY
  )
  batches = list(
    zip(torch.tensor(features), torch.tensor(label).long(), strict=True)
  )

  def candidate():
    for x, y in batches:
      optimizer.zero_grad()
      F.cross_entropy(network(x), y).backward()
      optimizer.step()

  return candidate


def compare(name: str, features: np.ndarray, label: np.ndarray) -> None:
  """Prints how far the two networks differ, and a table."""
  classifier = models.build(name, CLASSES, (FRAMES, BINS))
  params = jax.jit(
    lambda key: jax.tree.map(
      lambda x: x + 0.05 * jax.random.normal(key, x.shape),
      classifier.init_fn(key),
    )
  )(jax.random.key(0))
  network = _TWINS[name]()
  torch_layers.copy_params(params, network)
  x = features[0, :20]
  logits = np.asarray(jax.jit(classifier.predict_fn)(params, {'features': x}))
  with torch.no_grad():
    theirs = network(torch.tensor(x)).numpy()
  size = sum(x.size for x in jax.tree.leaves(params))
  if sum(p.numel() for p in network.parameters()) != size:
    raise ValueError(f'{name}: the networks differ in their parameters.')
  difference = np.abs(logits - theirs).max() / np.abs(theirs).max()
  print(f'{name}: {size} parameters; logits differ by {difference:.0e}')
  batches = {'features': jnp.asarray(features), 'label': jnp.asarray(label)}
  ours, compile_s = jax_candidate(classifier, params, batches)
  candidates: dict[str, timing.Candidate] = {
    'PyTorch': torch_candidate(network, features, label),
    'unlearn_jax': ours,
  }
  times = {
    candidate: [t / _STEPS.value for t in measured]
    for candidate, measured in timing.measure(
      candidates, _REPEATS.value
    ).items()
  }
  timing.print_table(times, 'PyTorch', {'unlearn_jax': compile_s})


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  if unknown := set(_NETWORKS.value) - set(_TWINS):
    raise app.UsageError(
      f'--networks={min(unknown)}: must be of {", ".join(_TWINS)}.'
    )
  torch.set_num_threads(os.cpu_count() or 1)
  print(
    f'Seconds a step, batch {_BATCH.value} of [{FRAMES}, {BINS}], median of '
    f'{_REPEATS.value} (least to most); jax {jax.__version__}, torch '
    f'{torch.__version__}, {torch.get_num_threads()} threads'
  )
  rng = np.random.default_rng(0)
  shape = (_STEPS.value, _BATCH.value)
  features = rng.normal(size=(*shape, FRAMES, BINS)).astype(np.float32)
  label = rng.integers(0, CLASSES, shape).astype(np.int32)
  for name in _NETWORKS.value:
    compare(name, features, label)


if __name__ == '__main__':
  app.run(main)
