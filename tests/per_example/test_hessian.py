"""Curvature products and the solver, against dense NumPy matrices."""

import functools
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.per_example import hessian

SIZE = P.FEATURES * P.CLASSES + P.CLASSES


def flat(tree):
  leaves = [np.ravel(np.float64(x)) for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def make_batch(seed=1, size=7, padding=2):
  return P.step_of(P.make_batches(seed, 1, size, padding), 0)


def make_signs(batch, seed=3):
  shape = (len(batch['mask']), P.CLASSES)
  return jnp.float32(np.random.default_rng(seed).choice([-1.0, 1.0], shape))


def net(params, batch):
  """A network whose logits are not linear in its parameters."""
  hidden = jnp.tanh(batch['features'] @ params['kernel'])
  return 3.0 * (hidden @ params['square'] + params['bias'][None])


def make_net_params(seed=4):
  square = jax.random.normal(jax.random.key(seed), (P.CLASSES, P.CLASSES))
  return {**P.make_params(seed), 'square': square}


def dense_products(params, batch):
  """Matrix of `ggnvp` for `net`, example by example from its Jacobian."""
  leaves, tree = jax.tree.flatten(params)
  rows = {name: jnp.asarray(x) for name, x in P.real_rows(batch).items()}

  def logits(vector):
    parts = jnp.split(vector, np.cumsum([x.size for x in leaves])[:-1])
    shaped = [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)]
    return net(jax.tree.unflatten(tree, shaped), rows)

  vector = jnp.concatenate([x.ravel() for x in leaves])
  jacobian = np.float64(jax.jacobian(logits)(vector))
  p = np.exp(P.twin_log_softmax(np.float64(logits(vector))))
  outer = np.stack([np.diag(q) - np.outer(q, q) for q in p])
  return np.einsum('icp,icd,idq->pq', jacobian, outer, jacobian)


def twin_hessian(params, batch):
  """Hessian of the summed cross-entropy of logistic regression."""
  rows = P.real_rows(batch)
  p = np.exp(P.twin_log_softmax(P.twin_logits(P.as_float64(params), rows)))
  outer = np.stack([np.diag(q) - np.outer(q, q) for q in p])
  ones = np.ones((len(p), 1))
  x = np.concatenate([ones, np.float64(rows['features'])], 1)
  # Leaves in order: bias [classes], kernel [features, classes].
  full = np.einsum('icd,ij,ik->jckd', outer, x, x)
  return full.reshape(SIZE, SIZE)


_loss_sum = hessian.masked_sum(P.loss_fn)
_hvp = jax.jit(functools.partial(hessian.hvp, _loss_sum))
_ggnvp = jax.jit(functools.partial(hessian.ggnvp, P.predict_fn))
_sample = jax.jit(functools.partial(hessian.ggn_sample, P.predict_fn))
_gradient = jax.jit(jax.grad(_loss_sum))


class ProductTest(parameterized.TestCase):
  def test_hvp_equals_dense_hessian(self):
    params, vector, batch = P.make_params(), P.make_params(5), make_batch()
    want = twin_hessian(params, batch) @ flat(vector)
    got = flat(_hvp(params, vector, batch))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

  def test_ggnvp_equals_dense_hessian_of_linear_logits(self):
    params, vector, batch = P.make_params(), P.make_params(5), make_batch()
    want = twin_hessian(params, batch) @ flat(vector)
    got = flat(_ggnvp(params, batch, vector))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

  def test_ggnvp_of_a_network_equals_the_product_of_jacobians(self):
    params, vector, batch = make_net_params(), make_net_params(5), make_batch()
    want = dense_products(params, batch) @ flat(vector)
    got = flat(
      jax.jit(functools.partial(hessian.ggnvp, net))(params, batch, vector)
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  def test_hvp_of_a_scalar_function(self):
    def fun(params, scale):
      return scale * (params['x'] ** 4).sum() + params['x'].prod()

    params = {'x': jnp.asarray([1.0, 2.0, -3.0])}
    got = hessian.hvp(fun, params, {'x': jnp.asarray([1.0, 0.0, 2.0])}, 0.5)
    dense = np.diag([6.0, 24.0, 54.0])
    dense += [[0.0, -3.0, 2.0], [-3.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    np.testing.assert_allclose(got['x'], dense @ [1.0, 0.0, 2.0], rtol=1e-6)

  def test_masked_sum_and_its_gradient_equal_twin(self):
    params, batch = P.make_params(), make_batch()
    theta = P.as_float64(params)
    want = P.twin_losses(theta, P.real_rows(batch)).sum()
    np.testing.assert_allclose(_loss_sum(params, batch), want, rtol=1e-6)
    gradient = P.twin_loss_gradient(theta, batch)
    P.assert_close(
      _gradient(params, batch), P.add((batch['mask'].sum(), gradient))
    )

  def test_mean_square_of_samples_is_the_trace(self):
    params, batch = make_net_params(), make_batch(size=3, padding=1)
    # Every pattern of signs of the two examples that count.
    patterns = np.float32(list(itertools.product([-1, 1], repeat=6)))
    signs = np.ones((64, 3, P.CLASSES), np.float32)
    signs[:, :2] = patterns.reshape(64, 2, P.CLASSES)
    sample = functools.partial(hessian.ggn_sample, net, params, batch)
    found = jax.jit(jax.vmap(sample))(signs)
    squares = [np.square(flat(P.step_of(found, k))).sum() for k in range(64)]
    want = np.trace(dense_products(params, batch))
    np.testing.assert_allclose(np.mean(squares), want, rtol=1e-5)
    self.assertGreater(np.std(squares), 0.1 * want)

  def test_sums_add_up_over_batches(self):
    params, vector, batch = (
      P.make_params(),
      P.make_params(5),
      make_batch(size=8),
    )
    halves = [
      jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(4), slice(4, 8))
    ]
    for fun in (
      lambda b: _hvp(params, vector, b),
      lambda b: _ggnvp(params, b, vector),
      lambda b: _sample(params, b, jnp.ones((len(b['mask']), P.CLASSES))),
    ):
      P.assert_close(jax.tree.map(jnp.add, *map(fun, halves)), fun(batch))

  @parameterized.parameters(np.nan, np.inf, 1e30)
  def test_what_stands_behind_the_mask_changes_nothing(self, value):
    params, vector, batch = P.make_params(), P.make_params(5), make_batch()
    other = {
      **batch,
      'features': jnp.where(
        batch['mask'][:, None] > 0, batch['features'], value
      ),
    }
    signs = make_signs(batch)
    for fun in (
      lambda b: _gradient(params, b),
      lambda b: _hvp(params, vector, b),
      lambda b: _ggnvp(params, b, vector),
      lambda b: _sample(params, b, signs),
    ):
      P.assert_identical(fun(other), fun(batch))

  def test_padding_alone_gives_zeros(self):
    params, vector, batch = P.make_params(), P.make_params(5), make_batch()
    nothing = {
      'features': jnp.full_like(batch['features'], jnp.nan),
      'label': batch['label'],
      'mask': jnp.zeros_like(batch['mask']),
    }
    want = jax.tree.map(jnp.zeros_like, params)
    P.assert_identical(_gradient(params, nothing), want)
    P.assert_identical(_hvp(params, vector, nothing), want)
    P.assert_identical(_ggnvp(params, nothing, vector), want)
    P.assert_identical(_sample(params, nothing, make_signs(batch)), want)
    # A select in place of a branch must not let the nan through either.
    both = jax.tree.map(
      lambda a, b: jnp.stack([a, b]), batch_of(batch), nothing
    )
    many = jax.vmap(lambda b: _hvp(params, vector, b))(both)
    P.assert_identical(P.step_of(many, 1), want)
    P.assert_close(P.step_of(many, 0), _hvp(params, vector, batch))

  def test_types_are_kept(self):
    params, batch = P.make_params(), make_batch()
    params = {**params, 'kernel': params['kernel'].astype(jnp.bfloat16)}
    for got in (
      hessian.ggnvp(P.predict_fn, params, batch, params),
      hessian.ggn_sample(P.predict_fn, params, batch, make_signs(batch)),
      hessian.hvp(_loss_sum, params, params, batch),
    ):
      self.assertEqual(
        jax.tree.map(lambda x: x.dtype, got),
        jax.tree.map(lambda x: x.dtype, params),
      )


def batch_of(batch):
  return {name: batch[name] for name in ('features', 'label', 'mask')}


def make_system(seed=0, size=6):
  """A positive definite matrix, and a right side as a tree."""
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(size, size))
  matrix = jnp.float32(root @ root.T + 0.5 * np.eye(size))
  right = {
    'a': jnp.float32(rng.normal(size=(2, 2))),
    'b': (jnp.float32(rng.normal(size=2)),),
  }
  return matrix, right


def times(matrix, tree):
  """Multiplies a matrix [6, 6] with a tree as `make_system` makes."""
  y = matrix @ jnp.concatenate([tree['a'].ravel(), tree['b'][0]])
  return {'a': y[:4].reshape(2, 2), 'b': (y[4:],)}


@jax.jit
def solve(matrix, right, damping=0.0, max_iterations=100, tolerance=1e-6):
  return hessian.damped_solve(
    functools.partial(times, matrix),
    right,
    damping=damping,
    max_iterations=max_iterations,
    tolerance=tolerance,
  )


class SolveTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.7, 30.0)
  def test_equals_numpy(self, damping):
    matrix, right = make_system()
    got, info = solve(matrix, right, damping)
    dense = np.float64(matrix) + damping * np.eye(6)
    want = np.linalg.solve(dense, flat(right))
    np.testing.assert_allclose(flat(got), want, rtol=1e-4, atol=1e-5)
    self.assertEqual(jax.tree.structure(got), jax.tree.structure(right))
    self.assertLess(info.residual, 1e-6)
    self.assertFalse(info.negative_curvature)

  @parameterized.parameters(1, 3)
  def test_each_iterate_equals_that_of_jax_scipy(self, count):
    matrix, right = make_system()
    got, info = solve(matrix, right, 0.7, count)
    want, _ = jax.scipy.sparse.linalg.cg(
      lambda v: hessian.add_scaled(times(matrix, v), 0.7, v),
      right,
      tol=0.0,
      maxiter=count,
    )
    P.assert_close(got, want)
    self.assertEqual(info.iterations, count)
    dense = np.float64(matrix) + 0.7 * np.eye(6)
    left = flat(right) - dense @ flat(got)
    residual = np.linalg.norm(left) / np.linalg.norm(flat(right))
    np.testing.assert_allclose(info.residual, residual, rtol=1e-4)
    self.assertGreater(residual, 1e-3)

  def test_ends_at_the_tolerance(self):
    matrix, right = make_system()
    _, rough = solve(matrix, right, 0.0, tolerance=0.3)
    _, fine = solve(matrix, right, 0.0)
    self.assertLess(rough.iterations, fine.iterations)
    self.assertLessEqual(rough.residual, 0.3)
    self.assertGreater(rough.residual, 1e-4)

  def test_as_many_products_as_eigenvalues_suffice(self):
    _, right = make_system()
    got, info = solve(jnp.diag(jnp.float32([2, 2, 2, 5, 5, 5])), right)
    self.assertEqual(info.iterations, 2)
    want = flat(right) / [2, 2, 2, 5, 5, 5]
    np.testing.assert_allclose(flat(got), want, rtol=1e-5)

  def test_right_side_of_zero_gives_zero(self):
    matrix, right = make_system()
    zeros = jax.tree.map(jnp.zeros_like, right)
    got, info = solve(matrix, zeros)
    P.assert_identical(got, zeros)
    self.assertEqual([float(x) for x in info], [0.0, 0.0, 0.0])

  def test_negative_curvature_ends_it_before_the_step(self):
    _, right = make_system()
    ones = jax.tree.map(jnp.ones_like, right)
    # Positive along the right side, where it begins, but not everywhere.
    matrix = jnp.diag(jnp.float32([6, 3, 2, 1, -2, -4]))
    got, info = solve(matrix, ones, 0.0)
    self.assertTrue(info.negative_curvature)
    before, _ = solve(matrix, ones, 0.0, info.iterations - 1)
    P.assert_identical(got, before)
    self.assertGreater(np.abs(flat(got)).max(), 0.1)
    # Enough damping makes it definite.
    got, info = solve(matrix, ones, 5.0)
    self.assertFalse(info.negative_curvature)
    want = 1 / (np.diag(np.float64(matrix)) + 5)
    np.testing.assert_allclose(flat(got), want, rtol=1e-4)

  @parameterized.parameters(-1.0, 0.0)
  def test_no_positive_curvature_at_all_gives_zero(self, value):
    _, right = make_system()
    got, info = solve(value * jnp.eye(6), right, 0.0)
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, right))
    self.assertTrue(info.negative_curvature)
    self.assertEqual((info.iterations, info.residual), (1, 1.0))

  def test_vmap_equals_separate_solves(self):
    systems = [make_system(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *systems)
    damping = jnp.float32([0.0, 1.0, 30.0])
    many, infos = jax.vmap(solve)(*stacked, damping)
    for k, system in enumerate(systems):
      want, info = solve(*system, damping[k])
      P.assert_close(P.step_of(many, k), want)
      self.assertEqual(infos.iterations[k], info.iterations)
    self.assertGreater(len(set(np.asarray(infos.iterations))), 1)

  def test_type_of_the_right_side_is_kept(self):
    matrix, right = make_system()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), right)
    got, _ = solve(matrix.astype(jnp.bfloat16), half, 30.0, tolerance=0.05)
    want, _ = solve(matrix, right, 30.0)
    self.assertEqual(got['a'].dtype, jnp.bfloat16)
    np.testing.assert_allclose(flat(got), flat(want), rtol=0.1, atol=2e-3)


if __name__ == '__main__':
  absltest.main()
