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
from torch import nn
import torch.nn.functional as F

from unlearn_jax.datasets import batches
from unlearn_jax.models import registry as models
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.step import descend

_CLIPS = flags.DEFINE_integer('clips', 9_600, 'Clips in an epoch.', 1)
_BATCH = flags.DEFINE_integer('batch', 100, 'Clips a step.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Repeats of each candidate.', 1)

SHAPE, CLASSES = (98, 40), 20
WIDTHS, GROUPS = (16, 24, 32, 48), 8


class TorchConv(nn.Conv1d):
  """Convolution with 'SAME' padding."""

  def forward(self, x):
    width, stride = self.kernel_size[0], self.stride[0]
    frames = x.shape[-1]
    total = max((-(-frames // stride) - 1) * stride + width - frames, 0)
    return super().forward(F.pad(x, (total // 2, total - total // 2)))


def torch_conv(channels, features, width, stride=1):
  return TorchConv(channels, features, width, stride, bias=False)


class TorchBlock(nn.Module):
  """The residual block of TC-ResNet8."""

  def __init__(self, channels, features):
    """Names the layers in the order in which Flax numbers them."""
    super().__init__()
    self.convs = nn.ModuleList(
      [
        torch_conv(channels, features, 1, 2),
        torch_conv(channels, features, 9, 2),
        torch_conv(features, features, 9),
      ]
    )
    self.norms = nn.ModuleList(
      nn.GroupNorm(GROUPS, features, eps=1e-6) for _ in range(3)
    )

  def forward(self, x):
    shortcut = F.relu(self.norms[0](self.convs[0](x)))
    x = F.relu(self.norms[1](self.convs[1](x)))
    return F.relu(self.norms[2](self.convs[2](x)) + shortcut)


class TorchTCResNet8(nn.Module):
  """TC-ResNet8 in the usual PyTorch style, [batch, channels, frames]."""

  def __init__(self):
    """Initialises as PyTorch does."""
    super().__init__()
    self.conv = torch_conv(SHAPE[1], WIDTHS[0], 3)
    pairs = zip(WIDTHS, WIDTHS[1:], strict=False)
    self.blocks = nn.ModuleList(TorchBlock(*pair) for pair in pairs)
    self.dense = nn.Linear(WIDTHS[-1], CLASSES)

  def forward(self, x):
    mean = x.mean((-2, -1), keepdim=True)
    std = x.std((-2, -1), keepdim=True, unbiased=False)
    x = self.conv(((x - mean) / (std + 1e-3)).transpose(1, 2))
    for block in self.blocks:
      x = block(x)
    return self.dense(x.mean(-1))


def copy_params(params, network: TorchTCResNet8) -> None:
  """Gives the PyTorch network the parameters of the Flax one."""

  def put(target, value):
    target.data = torch.tensor(np.asarray(value))

  def put_conv(conv, layer):
    put(conv.weight, layer['kernel'].transpose(2, 1, 0))

  put_conv(network.conv, params['Conv1d_0'])
  for i, block in enumerate(network.blocks):
    layers = params[f'ResidualBlock_{i}']
    for j in range(3):
      put_conv(block.convs[j], layers[f'Conv1d_{j}'])
      put(block.norms[j].weight, layers[f'GroupNorm_{j}']['scale'])
      put(block.norms[j].bias, layers[f'GroupNorm_{j}']['bias'])
  put(network.dense.weight, params['Dense_0']['kernel'].T)
  put(network.dense.bias, params['Dense_0']['bias'])


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


def torch_candidate(
  network: TorchTCResNet8, features, label, recipe: Recipe
) -> timing.Candidate:
  """Returns an epoch in PyTorch."""
  features, label = torch.tensor(features), torch.tensor(label).long()
  optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate)

  def candidate():
    for rows in torch.randperm(len(label)).split(recipe.batch_size):
      optimizer.zero_grad()
      logits = network(features[rows].float())
      F.cross_entropy(logits, label[rows]).backward()
      nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
      optimizer.step()

  return candidate


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  rng = np.random.default_rng(0)
  features = rng.normal(size=(_CLIPS.value, *SHAPE)).astype(np.float16)
  label = rng.integers(0, CLASSES, _CLIPS.value).astype(np.int32)
  classifier = models.build('tc_resnet8', CLASSES, SHAPE)
  params, network = classifier.init_fn(jax.random.key(1)), TorchTCResNet8()
  copy_params(params, network)
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
    'PyTorch': torch_candidate(network, features, label, recipe)
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
