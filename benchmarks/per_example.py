r"""Times gradients of single examples beside Opacus and torch.func, in one run.

  python benchmarks/per_example.py --batch=100 --repeats=15

Of TC-ResNet8, one batch: all gradients [batch, parameters], the diagonal of
the empirical Fisher information, and the norms of the gradients. That all
agree is checked first. Repeats alternate between the candidates; times are
medians, compile time is apart. PyTorch has what it recommends: Opacus with
hooks (ghost norms for the norms), torch.func with vmap(grad). Needs the extra
`bench`.
"""

import functools
import time
import warnings

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from opacus import grad_sample
import timing
import torch
import torch.nn.functional as F
import torch_tc_resnet

from unlearn_jax.models import registry as models
from unlearn_jax.per_example import fisher
from unlearn_jax.per_example import gradients
from unlearn_jax.training.losses import cross_entropy

_BATCH = flags.DEFINE_integer('batch', 100, 'Clips in the batch.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Repeats of each.', 1)
_MICROBATCH = flags.DEFINE_integer('microbatch', 20, 'Clips at a time.', 1)


def ours(loss_fn, params, batch):
  """Returns candidates by task and name, and their compile times in s."""
  tasks = {
    'gradients': gradients.per_example_grads,
    'fisher': fisher.fisher_diagonal,
    'norms': gradients.per_example_norms,
  }
  found, compile_s = {}, {}
  for task, fun in tasks.items():
    for microbatch in (None, _MICROBATCH.value):
      name = f'unlearn_jax, {microbatch or "all"} at a time'
      bound = functools.partial(fun, loss_fn, microbatch=microbatch)
      start = time.perf_counter()
      compiled = jax.jit(bound).lower(params, batch).compile()
      compile_s[task, name] = time.perf_counter() - start
      found[task, name] = functools.partial(
        lambda f: jax.block_until_ready(f(params, batch)), compiled
      )
  return found, compile_s


def torch_func(network, x, label):
  """Returns candidates of `torch.func`."""
  params = dict(network.named_parameters())

  def loss(params, x, label):
    logits = torch.func.functional_call(network, params, (x[None],))
    return F.cross_entropy(logits, label[None])

  grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

  def diagonal():
    return {k: g.square().mean(0) for k, g in grads(params, x, label).items()}

  def norms():
    parts = [
      g.flatten(1).square().sum(1) for g in grads(params, x, label).values()
    ]
    return torch.stack(parts).sum(0).sqrt()

  return {
    ('gradients', 'torch.func'): lambda: grads(params, x, label),
    ('fisher', 'torch.func'): diagonal,
    ('norms', 'torch.func'): norms,
  }


def opacus(make_network, x, label):
  """Returns candidates of Opacus: hooks, and ghost norms for the norms."""
  hooked = grad_sample.GradSampleModule(make_network(), loss_reduction='sum')
  ghost = grad_sample.GradSampleModuleFastGradientClipping(
    make_network(),
    max_grad_norm=1.0,
    use_ghost_clipping=True,
    loss_reduction='sum',
  )

  def backward(module):
    module.zero_grad()
    F.cross_entropy(module(x), label, reduction='sum').backward()

  def grads():
    for p in hooked.parameters():
      p.grad_sample = None
    backward(hooked)
    return {n: p.grad_sample for n, p in hooked.named_parameters()}

  def norms():
    for p in ghost.parameters():
      p._norm_sample = None
    backward(ghost)
    parts = [p._norm_sample.square() for p in ghost.parameters()]
    return torch.stack(parts).sum(0).sqrt()

  return {
    ('gradients', 'Opacus'): grads,
    ('fisher', 'Opacus'): lambda: {
      n: g.square().mean(0) for n, g in grads().items()
    },
    ('norms', 'Opacus'): norms,
  }


def check(candidates):
  """Prints the largest relative difference of the norms."""
  results = {
    name: np.asarray(
      found.detach() if isinstance(found := fun(), torch.Tensor) else found
    )
    for (task, name), fun in candidates.items()
    if task == 'norms'
  }
  first = next(iter(results.values()))
  for name, norms in results.items():
    print(f'{name:36}norms differ by {np.abs(norms / first - 1).max():.1e}')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  warnings.filterwarnings('ignore', module='torch|opacus')
  shape, classes = torch_tc_resnet.SHAPE, torch_tc_resnet.CLASSES
  rng = np.random.default_rng(0)
  features = rng.normal(size=(_BATCH.value, *shape)).astype(np.float32)
  label = rng.integers(0, classes, _BATCH.value)
  classifier = models.build('tc_resnet8', classes, shape)
  params = classifier.init_fn(jax.random.key(1))

  def make_network():
    network = torch_tc_resnet.TorchTCResNet8()
    torch_tc_resnet.copy_params(params, network)
    return network

  batch = {
    'features': jnp.asarray(features),
    'label': jnp.asarray(label, jnp.int32),
    'mask': jnp.ones(_BATCH.value),
  }
  x, y = torch.tensor(features), torch.tensor(label)
  loss_fn = cross_entropy(classifier.predict_fn)
  candidates, compile_s = ours(loss_fn, params, batch)
  candidates |= torch_func(make_network(), x, y) | opacus(make_network, x, y)
  print(f'jax {jax.__version__}, torch {torch.__version__}')
  check(candidates)
  times = timing.measure(candidates, _REPEATS.value)
  for task in ('gradients', 'fisher', 'norms'):
    chosen = {n: t for (k, n), t in times.items() if k == task}
    reference = min(
      ('torch.func', 'Opacus'), key=lambda n: np.median(chosen[n])
    )
    print(f'\n{task}, batch {_BATCH.value}, median of {_REPEATS.value}')
    timing.print_table(
      chosen, reference, {n: s for (k, n), s in compile_s.items() if k == task}
    )


if __name__ == '__main__':
  app.run(main)
