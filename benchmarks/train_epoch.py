r"""Times an epoch of TC-ResNet8 beside the same network in PyTorch, in one run.

  python benchmarks/train_epoch.py --clips=9600 --batch=100 --repeats=7

Input is noise, float16 log-mels on the device. Both sides shuffle, gather
batches, convert to float32, clip the gradient and step AdamW. That the two
networks are the same is checked on the logits first. Repeats alternate between
the candidates; times are medians, compile time is apart.
"""

import functools
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
import torch_tc_resnet

from unlearn_jax.datasets import batches
from unlearn_jax.models import registry as models
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.step import descend

_CLIPS = flags.DEFINE_integer('clips', 9_600, 'Clips in an epoch.', 1)
_BATCH = flags.DEFINE_integer('batch', 100, 'Clips a step.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Repeats of each candidate.', 1)


def jax_candidate(
  classifier: models.Classifier, examples, recipe: Recipe, augment_fn=None
) -> tuple[timing.Candidate, float]:
  """Compiles an epoch; returns the candidate and the compile time in s."""
  loss_fn = cross_entropy(classifier.predict_fn)
  method = descend(loss_fn, recipe.optimizer(), augment_fn)
  key = jax.random.key(0)
  state = loop.init(method, classifier.init_fn(key), key)
  rng = np.random.default_rng(0)
  order = np.arange(_CLIPS.value)

  def make_batches():
    return batches.one_pass(order, recipe.batch_size, rng)

  start = time.perf_counter()
  epoch = loop.run.lower(method, state, None, make_batches(), examples)
  compiled = epoch.compile()
  compile_s = time.perf_counter() - start

  def candidate():
    nonlocal state
    state, _ = compiled(state, None, make_batches(), examples)
    jax.block_until_ready(state)

  return candidate, compile_s


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  rng = np.random.default_rng(0)
  features = rng.normal(size=(_CLIPS.value, *torch_tc_resnet.SHAPE)).astype(
    np.float16
  )
  label = rng.integers(0, torch_tc_resnet.CLASSES, _CLIPS.value).astype(
    np.int32
  )
  classifier = models.build(
    'tc_resnet8', torch_tc_resnet.CLASSES, torch_tc_resnet.SHAPE
  )
  params, network = (
    classifier.init_fn(jax.random.key(1)),
    torch_tc_resnet.TorchTCResNet8(),
  )
  torch_tc_resnet.copy_params(params, network)
  sample = {'features': features[:50]}
  ours = np.asarray(classifier.predict_fn(params, sample))
  with torch.no_grad():
    theirs = network(torch.tensor(features[:50]).float()).numpy()
  print(f'Largest difference of logits: {np.abs(ours - theirs).max():.1e}')
  size = sum(x.size for x in jax.tree.leaves(params))
  print(f'{size} parameters; jax {jax.__version__}, torch {torch.__version__}')

  recipe = Recipe(batch_size=_BATCH.value, learning_rate=1e-3)
  examples = {'features': jnp.asarray(features), 'label': jnp.asarray(label)}
  make = functools.partial(jax_candidate, classifier, examples, recipe)
  candidates: dict[str, timing.Candidate] = {
    'PyTorch': torch_tc_resnet.epoch(network, features, label, recipe)
  }
  compile_s = {}
  for name, augment_fn in (
    ('unlearn_jax', None),
    ('unlearn_jax, with augmentation', recipe.augment_fn(10.0)),
  ):
    candidates[name], compile_s[name] = make(augment_fn)
  print(
    f'An epoch of {_CLIPS.value} clips, batch {_BATCH.value}, median of '
    f'{_REPEATS.value} (least to most)'
  )
  times = timing.measure(candidates, _REPEATS.value)
  timing.print_table(times, 'PyTorch', compile_s)


if __name__ == '__main__':
  app.run(main)
