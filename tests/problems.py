"""Small problems for the tests, and a float64 NumPy twin of the smallest."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.methods.spec import Problem
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

FEATURES, CLASSES = 4, 3


@contextlib.contextmanager
def optimised() -> Iterator[None]:
  """Compiles what is called inside with all optimisations, as a user does.

  For programs that run for long, or that are compared to the last digit.
  """
  jax.clear_caches()
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', True)
    jax.clear_caches()


def predict_fn(params, batch):
  """Multinomial logistic regression."""
  return batch['features'] @ params['kernel'] + params['bias'][None]


def init_fn(key):
  kernel_key, bias_key = jax.random.split(key)
  return {
    'kernel': jax.random.normal(kernel_key, (FEATURES, CLASSES)),
    'bias': jax.random.normal(bias_key, (CLASSES,)),
  }


loss_fn = cross_entropy(predict_fn)


def map_output(params, matrix, offset):
  """Folds an affine map of the logits into any of the models of the tests.

  The logits are the embedding of these models.
  """

  def fold(leaf):
    x = leaf.astype(jnp.float32) @ matrix
    return (x if x.ndim > 1 else x + offset).astype(leaf.dtype)

  return jax.tree.map(fold, params)


def make_problem(convert=lambda params: params, predict=predict_fn, **fields):
  """What methods may know of one of these models."""
  return Problem(
    cross_entropy(predict),
    predict,
    lambda key: convert(init_fn(key)),
    embed_fn=predict,
    embedding_size=CLASSES,
    map_embedding_fn=map_output,
    **fields,
  )


PROBLEM = make_problem()


def make_params(seed: int = 0):
  return init_fn(jax.random.key(seed))


def make_examples(size: int, seed: int = 0, classes: int = CLASSES):
  """Examples without a mask, [size, ...]."""
  rng = np.random.default_rng(seed)
  return {
    'features': jnp.asarray(rng.normal(size=(size, FEATURES)), jnp.float32),
    'label': jnp.asarray(rng.integers(0, classes, size), jnp.int32),
  }


def make_batches(seed: int, steps: int, size: int, padding: int = 0):
  """Stacked batches [steps, size, ...]; the last `padding` rows do not count.

  The rows behind the zero mask hold nonsense that depends on the seed.
  """
  flat = make_examples(steps * size, seed)
  flat['id'] = jnp.arange(steps * size)
  stacked = jax.tree.map(lambda x: x.reshape(steps, size, *x.shape[1:]), flat)
  mask = jnp.arange(size) < size - padding
  stacked['mask'] = jnp.tile(mask[None].astype(jnp.float32), (steps, 1))
  return nonsense(stacked, value=100 + seed)


def nonsense(stacked, value: int):
  """Returns batches whose rows behind a zero mask hold `value`."""

  def fill(x):
    mask = stacked['mask'].reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return jnp.where(mask > 0, x, jnp.asarray(value, x.dtype))

  rest = {name: fill(x) for name, x in stacked.items() if name != 'mask'}
  return {**rest, 'mask': stacked['mask']}


def step_of(stacked, k: int):
  """Returns the batch of step k; None stays None."""
  return jax.tree.map(lambda x: x[k], stacked)


def steps_of(stacked, order):
  """Returns the steps in `order`; -1 is a step of padding alone."""
  taken = jax.tree.map(lambda x: x[jnp.asarray(order)], stacked)
  filled = jnp.asarray([[k >= 0] for k in order], jnp.float32)
  return {**taken, 'mask': taken['mask'] * filled}


def sgd(
  learning_rate: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """SGD with L2 weight decay inside the momentum, as `twin_run` has it."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(learning_rate, momentum=momentum or None),
  )


def run(method, params, forget, retain, key=0, prepare=False):
  """Runs a method over stacked batches from `params`."""
  state = loop.init(method, params, jax.random.key(key))
  if prepare:
    state = loop.prepare(method, state, forget, retain)
  return loop.run(method, state, forget, retain)


# The twin: the same in float64 NumPy, with gradients written out.


def as_float64(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def twin_log_softmax(logits):
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def twin_kl_gradient(target, logits, temperature=1.0):
  """Gradient of T^2 KL(target^T || p^T) in the logits, [batch, classes]."""
  t, log_p = (twin_log_softmax(z / temperature) for z in (target, logits))
  return temperature * (np.exp(log_p) - np.exp(t))


def real_rows(batch):
  """Returns the batch in NumPy without the rows behind a zero mask."""
  keep = np.asarray(batch['mask']) > 0
  return {name: np.asarray(x)[keep] for name, x in batch.items()}


def twin_logits(params, batch):
  return np.float64(batch['features']) @ params['kernel'] + params['bias']


def twin_pullback(batch, logit_gradient):
  """Gradient of the parameters from that of the logits, summed over rows."""
  features = np.float64(batch['features'])
  return {
    'kernel': features.T @ logit_gradient,
    'bias': logit_gradient.sum(0),
  }


def twin_losses(params, batch):
  log_p = twin_log_softmax(twin_logits(params, batch))
  return -log_p[np.arange(len(log_p)), batch['label']]


def twin_loss_gradient(params, batch, weight=1.0):
  """Gradient of the mean cross-entropy; `weight` [batch] scales each row."""
  batch = real_rows(batch)
  p = np.exp(twin_log_softmax(twin_logits(params, batch)))
  p[np.arange(len(p)), batch['label']] -= 1.0
  p = p * np.broadcast_to(weight, len(p))[:, None] / max(len(p), 1)
  return twin_pullback(batch, p)


def twin_run(
  gradient_fn: Callable[[Any, int], Any],
  params,
  steps: int,
  *,
  learning_rate: float = 0.1,
  momentum: float = 0.0,
  weight_decay: float = 0.0,
):
  """Follows `gradient_fn` (params, step) by SGD from `params`."""
  params = as_float64(params)
  velocity = jax.tree.map(np.zeros_like, params)
  for k in range(steps):
    gradient = gradient_fn(params, k)
    for name, value in params.items():
      decayed = gradient[name] + weight_decay * value
      velocity[name] = momentum * velocity[name] + decayed
      params[name] = value - learning_rate * velocity[name]
  return params


def add(*terms):
  """Returns the sum of (weight, tree) pairs."""
  names = terms[0][1]
  return {name: sum(w * tree[name] for w, tree in terms) for name in names}


def assert_close(got, want, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(
      np.asarray(a, np.float64),
      np.asarray(b, np.float64),
      rtol=rtol,
      atol=atol,
      err_msg=jax.tree_util.keystr(path),
    )


def _bits(leaf):
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_identical(got, want):
  """Bit for bit, types and structure included."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    a, b = _bits(a), _bits(b)
    assert a.dtype == b.dtype, jax.tree_util.keystr(path)
    np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def differ(first, second) -> bool:
  """Says whether any entry of two trees differs."""
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  return any((_bits(a) != _bits(b)).any() for a, b in pairs)
