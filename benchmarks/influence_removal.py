r"""Measures how far an influence step ends from retraining, by forget-set size.

  python benchmarks/influence_removal.py --examples=1000 --repeats=10

Ridge and multinomial logistic regression on synthetic data, in float64. The
original model is at its optimum, and so is the retrained one, by NumPy: the
normal equations and Newton's method. Forget sets are of two kinds: a random
sample, and a cluster of look-alikes with one target, whose gradients add up.
`moves` is how far retraining moves the parameters, `misses` how far from the
retrained ones the step ends, both in L2 norm; `slope` is their exponent in the
size.
"""

from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.methods.influence import influence
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

_EXAMPLES = flags.DEFINE_integer('examples', 1_000, 'Training examples.', 100)
_FEATURES = flags.DEFINE_integer('features', 10, 'Features of each.', 1)
_CLASSES = flags.DEFINE_integer('classes', 3, 'Of logistic regression.', 2)
_REPEATS = flags.DEFINE_integer('repeats', 10, 'Forget sets of each size.', 1)
_DECAY = flags.DEFINE_float('weight_decay', 0.01, 'L2 penalty.', 0.0)
_SIZES = flags.DEFINE_list('sizes', ['2', '4', '8', '16', '32'], 'To forget.')

BATCH = 100


def predict_fn(params, batch):
  return batch['features'] @ params['kernel']


def ridge_loss(params, batch):
  error = predict_fn(params, batch)[:, 0] - batch['label']
  return 0.5 * jnp.square(error)


def solve_ridge(x, y, keep):
  dense = (x.T * keep) @ x + keep.sum() * _DECAY.value * np.eye(x.shape[1])
  return np.linalg.solve(dense, (x.T * keep) @ y)[:, None]


def solve_logistic(x, y, keep):
  """Newton's method from 0, until the gradient is gone."""
  inputs, classes = x.shape[1], _CLASSES.value
  theta = np.zeros((inputs, classes))
  target = np.eye(classes)[y]
  ridge = keep.sum() * _DECAY.value
  for _ in range(50):
    logits = x @ theta
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = (x.T * keep) @ (p - target) + ridge * theta
    if np.abs(gradient).max() < 1e-10:
      return theta
    dense = np.zeros((inputs, classes, inputs, classes))
    for c, d in np.ndindex(classes, classes):
      weight = keep * p[:, c] * ((c == d) - p[:, d])
      dense[:, c, :, d] = (x.T * weight) @ x
    dense = dense.reshape(theta.size, -1) + ridge * np.eye(theta.size)
    theta = theta - np.linalg.solve(dense, gradient.ravel()).reshape(
      theta.shape
    )
  raise RuntimeError(f'the gradient is still {np.abs(gradient).max():.1e}.')


def make_examples(rng: np.random.Generator):
  """Features [examples, features + 1], the last a 1; two kinds of targets."""
  x = rng.normal(size=(_EXAMPLES.value, _FEATURES.value))
  x = np.concatenate([x, np.ones((len(x), 1))], 1)
  weights = rng.normal(size=(x.shape[1], _CLASSES.value)) / 2
  noise = rng.gumbel(size=(len(x), _CLASSES.value))
  real = x @ weights[:, 0] + rng.normal(size=len(x))
  return x, real, np.argmax(x @ weights + noise, 1)


def gather_cluster(x, y, rows, rng):
  """Moves examples to the place of the first, with the target of the second."""
  x, y = x.copy(), y.copy()
  noise = 0.3 * rng.normal(size=(len(rows), x.shape[1] - 1))
  x[rows, :-1], y[rows] = x[rows[0], :-1] + noise, y[rows[1]]
  return x, y


def stack(x, y, keep):
  """Stacked batches, padded to whole ones; only `keep` counts."""
  rows = {'features': x, 'label': y, 'mask': keep, 'id': np.arange(len(x))}
  steps = -(-len(x) // BATCH)

  def cut(a):
    padded = np.zeros((steps * BATCH, *a.shape[1:]), a.dtype)
    padded[: len(a)] = a
    return jnp.asarray(padded.reshape(steps, BATCH, *a.shape[1:]))

  return {name: cut(a) for name, a in rows.items()}


def measure(method, retrain, x, y, forgotten) -> tuple[float, float]:
  """Returns how far retraining moves, and how far the step ends from there."""
  everything = np.ones(len(x))
  keep = everything.copy()
  keep[forgotten] = 0.0
  original, want = retrain(x, y, everything), retrain(x, y, keep)
  params = {'kernel': jnp.asarray(original)}
  state = loop.init(method, params, jax.random.key(0))
  sets = stack(x, y, everything - keep), stack(x, y, keep)
  got = np.asarray(loop.prepare(method, state, *sets).params['kernel'])
  return np.linalg.norm(want - original), np.linalg.norm(got - want)


def print_table(name, method, retrain, x, y, sizes) -> None:
  """Prints a row for every kind and size, and the slopes in log-log."""
  print(f'\n{name}\n{"forget set":10}{"size":>6}{"moves":>10}{"misses":>10}')
  for kind in ('sample', 'cluster'):
    means = []
    for size in sizes:
      found = []
      for repeat in range(_REPEATS.value):
        rng = np.random.default_rng(repeat)
        rows, data = rng.permutation(len(x))[: max(sizes)], (x, y)
        if kind == 'cluster':
          data = gather_cluster(x, y, rows, rng)
        found.append(measure(method, retrain, *data, rows[:size]))
      means.append(np.mean(found, 0))
      print(f'{kind:10}{size:6}{means[-1][0]:10.1e}{means[-1][1]:10.1e}')
    if min(means[0]) > 1e-9:  # Not where there is rounding alone to see.
      slopes = np.polyfit(np.log(sizes), np.log(means), 1)[0]
      print(f'{kind:10}{"slope":>6}{slopes[0]:10.2f}{slopes[1]:10.2f}')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  jax.config.update('jax_enable_x64', True)
  sizes = [int(size) for size in _SIZES.value]
  x, real, label = make_examples(np.random.default_rng(0))
  exact: dict[str, Any] = {
    'samples': None,
    'damping': 0.0,
    'weight_decay': _DECAY.value,
    'max_iterations': 1_000,
    'tolerance': 1e-12,
  }
  ridge = influence(ridge_loss, predict_fn, curvature='hessian', **exact)
  logistic = influence(cross_entropy(predict_fn), predict_fn, **exact)
  print(
    f'{len(x)} examples, {_FEATURES.value} features, {_CLASSES.value} classes, '
    f'weight decay {_DECAY.value}, means over {_REPEATS.value} forget sets'
  )
  print_table('ridge regression', ridge, solve_ridge, x, real, sizes)
  print_table('logistic regression', logistic, solve_logistic, x, label, sizes)


if __name__ == '__main__':
  app.run(main)
