r"""Times a population beside one model alone and PyTorch, in one run.

  python benchmarks/population.py --members=16 --chunk=16 --clips=9600

Each member is a TC-ResNet8 with its own parameters, order and batches; input is
noise, as float16 log-mels on the device. Times are seconds a model-epoch:
medians over repeats that alternate between the candidates; compile time is
apart. PyTorch trains one model after another, so one of them stands for all.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
import torch_tc_resnet

from unlearn_jax.models import registry as models
from unlearn_jax.populations import train
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.step import descend

_CLIPS = flags.DEFINE_integer('clips', 9_600, 'Clips in an epoch.', 1)
_BATCH = flags.DEFINE_integer('batch', 100, 'Clips a step.', 1)
_MEMBERS = flags.DEFINE_integer('members', 16, 'Models.', 1)
_CHUNK = flags.DEFINE_integer('chunk', 16, 'Models at a time.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Repeats of each candidate.', 1)


def population(members, chunk, strategy, data, recipe) -> timing.Candidate:
  """Returns an epoch of `members` models."""
  classifier = models.build(
    'tc_resnet8', torch_tc_resnet.CLASSES, torch_tc_resnet.SHAPE
  )
  method = descend(cross_entropy(classifier.predict_fn), recipe.optimizer())
  rows = np.arange(len(data['label']))

  def candidate():
    train.train_population(
      method,
      classifier.init_fn,
      [rows] * members,
      range(members),
      data,
      epochs=1,
      batch_size=recipe.batch_size,
      execution=train.Execution(chunk=chunk, strategy=strategy),
    )

  return candidate


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  rng = np.random.default_rng(0)
  clips, members = _CLIPS.value, _MEMBERS.value
  shape = (clips, *torch_tc_resnet.SHAPE)
  features = rng.normal(size=shape).astype(np.float16)
  label = rng.integers(0, torch_tc_resnet.CLASSES, clips).astype(np.int32)
  data = {'features': jnp.asarray(features), 'label': jnp.asarray(label)}
  recipe = Recipe(batch_size=_BATCH.value, learning_rate=1e-3)
  network = torch_tc_resnet.TorchTCResNet8()
  candidates = {
    'PyTorch': torch_tc_resnet.epoch(network, features, label, recipe),
    'one model': population(1, 1, 'map', data, recipe),
  }
  sizes = {'PyTorch': 1, 'one model': 1}
  for strategy in ('map', 'vmap'):
    name = f'{members} models by {strategy}'
    candidates[name] = population(members, _CHUNK.value, strategy, data, recipe)
    sizes[name] = members
  compile_s = {}
  for name, candidate in candidates.items():
    start = time.perf_counter()
    candidate()
    compile_s[name] = time.perf_counter() - start
  times = timing.measure(candidates, _REPEATS.value)
  per_model = {n: [t / sizes[n] for t in ts] for n, ts in times.items()}
  first = {n: s - np.median(times[n]) for n, s in compile_s.items()}
  print(
    f'A model-epoch of {clips} clips, batch {recipe.batch_size}, median of '
    f'{_REPEATS.value}; jax {jax.__version__}, torch {torch.__version__}'
  )
  for reference in ('one model', 'PyTorch'):
    timing.print_table(per_model, reference, first)


if __name__ == '__main__':
  app.run(main)
