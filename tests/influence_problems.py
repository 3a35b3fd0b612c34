"""Problems that influence functions are tested on, and their NumPy twins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods import curvature
from unlearn_jax.methods.influence import influence
from unlearn_jax.methods.woodfisher import woodfisher
from unlearn_jax.training import loop

EXACT = {'damping': 0.0, 'max_iterations': 60, 'tolerance': 1e-7}


def flat(tree):
  leaves = [np.ravel(np.float64(x)) for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def edit(method, params, forget, retain, key=0, examples=None, **hyper):
  """Returns parameters after the edit, and its report."""
  state = loop.init(method, params, jax.random.key(key))
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  if arrays:
    state = optax.tree_utils.tree_set(state, **arrays)
  state = loop.prepare(method, state, forget, retain, examples)
  report = state.method_state.report
  return state.params, {k: float(v) for k, v in report.items()}


@functools.cache
def make(name, samples, **options):
  """Methods for logistic regression, each built once.

  What `edit` can set in the state is not an option here: it needs no program of
  its own. There are 20 retain examples to draw from.
  """
  if name == 'woodfisher':
    return woodfisher(P.loss_fn, samples=samples, **options)
  return influence(P.loss_fn, P.predict_fn, samples=samples, **options)


BOTH = ({'name': 'influence'}, {'name': 'woodfisher'})


def setup():
  forget = P.make_batches(1, 2, 5, padding=1)
  retain = P.make_batches(2, 4, 7, padding=2)
  return P.make_params(), forget, retain


def restack(stacked, size, order=None):
  """The examples that count, in other batches and another order."""
  rows = P.real_rows(jax.tree.map(np.concatenate, dict(stacked)))
  rows = {k: v[order] if order is not None else v for k, v in rows.items()}
  steps = -(-len(rows['mask']) // size)

  def cut(x):
    padded = np.zeros((steps * size, *x.shape[1:]), x.dtype)
    padded[: len(x)] = x
    return jnp.asarray(padded.reshape(steps, size, *x.shape[1:]))

  return {name: cut(x) for name, x in rows.items()}


def all_alike(stacked):
  """Makes every example the first, so that any of them tells everything."""
  firsts = {n: stacked[n][0, 0] for n in ('features', 'label')}
  shapes = {n: stacked[n].shape for n in firsts}
  alike = {n: jnp.broadcast_to(firsts[n], shapes[n]) for n in firsts}
  return {**stacked, **alike}


# Logistic regression in float64 NumPy.


def hessian_of(theta, rows, weights=None):
  """Sum over examples; leaves in order: bias, kernel."""
  p = np.exp(P.twin_log_softmax(P.twin_logits(theta, rows)))
  weights = np.ones(len(p)) if weights is None else weights
  outer = np.stack([np.diag(q) - np.outer(q, q) for q in p])
  x = np.concatenate([np.ones((len(p), 1)), np.float64(rows['features'])], 1)
  full = np.einsum('i,icd,ij,ik->jckd', weights, outer, x, x)
  return full.reshape(x.shape[1] * p.shape[1], -1)


def gradients_of(theta, rows):
  """Of each example, [n, parameters]."""
  p = np.exp(P.twin_log_softmax(P.twin_logits(theta, rows)))
  p[np.arange(len(p)), rows['label']] -= 1.0
  x = np.concatenate([np.ones((len(p), 1)), np.float64(rows['features'])], 1)
  return np.einsum('ij,ic->ijc', x, p).reshape(len(p), -1)


def unflat(vector):
  rows = vector.reshape(P.FEATURES + 1, P.CLASSES)
  return {'bias': rows[0], 'kernel': rows[1:]}


def train(rows, keep, decay):
  """Minimises the sum over `keep` and its decay by Newton's method."""
  vector = np.zeros((P.FEATURES + 1) * P.CLASSES)
  ridge = keep.sum() * decay
  for _ in range(30):
    theta = unflat(vector)
    gradient = keep @ gradients_of(theta, rows) + ridge * vector
    dense = hessian_of(theta, rows, keep) + ridge * np.eye(len(vector))
    vector = vector - np.linalg.solve(dense, gradient)
  assert np.abs(gradient).max() < 1e-10
  return vector


def clustered_examples():
  """400 examples, of which the first 16 pull the model one way.

  The gradients of a random set of n grow like the root of n, and so what is
  quadratic in them would grow like n.
  """
  examples = {k: np.array(v) for k, v in P.make_examples(400, 7).items()}
  examples['label'][examples['features'][:, 0] > 0.3] = 0
  noise = np.random.default_rng(1).normal(size=(16, P.FEATURES))
  examples['features'][:16] = [1.0, -1.0, 0.5, 0.0] + 0.3 * noise
  examples['label'][:16] = 1
  return examples


def stack(examples, keep):
  """Stacked batches in float64 in which only `keep` counts."""
  rows = {
    'features': np.float64(examples['features']),
    'label': examples['label'],
    'mask': np.float64(keep),
    'id': np.arange(len(keep)),
  }
  return jax.tree.map(
    lambda x: jnp.asarray(x).reshape(4, -1, *x.shape[1:]), rows
  )


@functools.partial(jax.jit, static_argnames='kind')
def _curvature(params, retain, key, vector, kind):
  product, mean = curvature.curvature_sum(
    params,
    retain,
    None,
    key,
    loss_fn=P.loss_fn,
    predict_fn=P.predict_fn,
    curvature=kind,
  )
  return product(vector), mean


def mean_of(params, retain, key, kind='gauss_newton'):
  return _curvature(params, retain, key, params, kind)
