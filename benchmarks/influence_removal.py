r"""Measures how far an influence step ends from retraining, by forget-set size.

  python benchmarks/influence_removal.py --examples=2000 --repeats=10

Ridge and multinomial logistic regression on synthetic data, in float64. The
original model is at its optimum, and so is the retrained one, by NumPy: the
normal equations and Newton's method. A size is measured on `--repeats` forget
sets of two kinds: a random sample, and one cluster of look-alikes, whose
gradients add up. Errors are distances in parameters, as a share of the distance
that retraining moves; means over the repeats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.methods.influence import influence
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

_EXAMPLES = flags.DEFINE_integer('examples', 2_000, 'Training examples.', 100)
_FEATURES = flags.DEFINE_integer('features', 20, 'Features of each.', 1)
_CLASSES = flags.DEFINE_integer('classes', 5, 'Of logistic regression.', 2)
_REPEATS = flags.DEFINE_integer('repeats', 10, 'Forget sets of each size.', 1)
_DECAY = flags.DEFINE_float('weight_decay', 0.01, 'L2 penalty.', 0.0)
_SIZES = flags.DEFINE_list(
  'sizes', ['10', '20', '40', '80', '160'], 'To forget.'
)

BATCH = 100


class Task(NamedTuple):
  """A model whose retraining NumPy can do exactly.

  Attributes:
    predict_fn: as the library wants it.
    loss_fn: likewise.
    retrain: maps (features, target, mask) to its parameters [inputs, outputs].
    outputs: columns of the parameters.
  """

  predict_fn: Callable[..., Any]
  loss_fn: Callable[..., Any]
  retrain: Callable[..., np.ndarray]
  outputs: int


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
    dense = -np.einsum('i,ic,id,ij,ik->jckd', keep, p, p, x, x, optimize=True)
    for c in range(classes):
      dense[:, c, :, c] += (x.T * (keep * p[:, c])) @ x
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


def gather_cluster(x, y, size, rng):
  """Moves `size` examples to one place, with the target of the first."""
  x, y = x.copy(), y.copy()
  rows = rng.permutation(len(x))[:size]
  near = x[rows[0], :-1] + 0.3 * rng.normal(size=(size, x.shape[1] - 1))
  x[rows, :-1], y[rows] = near, y[rows[0]]
  return x, y, rows


def stack(x, y, keep):
  """Stacked batches, padded to whole ones; only `keep` counts."""
  rows = {'features': x, 'label': y, 'mask': keep, 'id': np.arange(len(x))}
  steps = -(-len(x) // BATCH)

  def cut(a):
    padded = np.zeros((steps * BATCH, *a.shape[1:]), a.dtype)
    padded[: len(a)] = a
    return jnp.asarray(padded.reshape(steps, BATCH, *a.shape[1:]))

  return {name: cut(a) for name, a in rows.items()}


def measure(task: Task, method, x, y, forgotten) -> tuple[float, float]:
  """Returns the share of the way that is missed, and the way's length."""
  keep = np.ones(len(x))
  keep[forgotten] = 0.0
  original = task.retrain(x, y, np.ones(len(x)))
  want = task.retrain(x, y, keep)
  state = loop.init(
    method, {'kernel': jnp.asarray(original)}, jax.random.key(0)
  )
  sets = stack(x, y, 1.0 - keep), stack(x, y, keep)
  got = np.asarray(loop.prepare(method, state, *sets).params['kernel'])
  moved = float(np.linalg.norm(want - original))
  return float(np.linalg.norm(got - want)) / moved, moved


def make_tasks() -> dict[str, Task]:
  classify = cross_entropy(predict_fn)
  return {
    'ridge': Task(predict_fn, ridge_loss, solve_ridge, 1),
    'logistic': Task(predict_fn, classify, solve_logistic, _CLASSES.value),
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
