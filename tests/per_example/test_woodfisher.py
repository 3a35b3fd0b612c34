"""The inverse of the empirical Fisher, against dense and sequential NumPy."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.per_example.woodfisher import woodfisher_solve


def make_case(m=6, seed=0):
  """Gradients [m, 5] and a vector [5], as trees of leaves of 3 and 2."""
  rng = np.random.default_rng(seed)
  g, v = rng.normal(size=(m, 5)), rng.normal(size=5)
  split = {'a': g[:, :3], 'b': g[:, 3:].reshape(m, 2, 1)}
  vector = {'a': v[:3], 'b': v[3:].reshape(2, 1)}
  single = jax.tree.map(jnp.float32, (split, vector))
  return g, v, *single


def solve(gradients, vector, count, damping):
  made = woodfisher_solve(gradients, vector, count=count, damping=damping)
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(made)])


def dense(g, v, damping):
  fisher = damping * np.eye(len(v)) + g.T @ g / len(g)
  return np.linalg.solve(fisher, v)


def sequential(g, v, damping):
  """The recursion, every o_i built through all earlier pairs."""
  m, pairs = len(g), []

  def inverse_times(x):
    k = x / damping
    for o, g_i in pairs:
      k = k - o * (g_i @ k) / (m + g_i @ o)
    return k

  for g_i in g:
    pairs.append((inverse_times(g_i), g_i))
  return inverse_times(v)


def published(g, v):
  """The recursion of published code, with mu = 1: o is its own predecessor."""
  m, o, k = len(g), g[0].copy(), v.copy()
  for g_i in g:
    k = k - o * (g_i @ k) / (m + g_i @ o)
    o = o - o * (g_i @ o) / (m + g_i @ o)
  return k, o


class WoodfisherTest(parameterized.TestCase):
  @parameterized.product(m=(1, 4, 6), damping=(0.05, 1.0, 50.0))
  def test_equals_dense_inverse(self, m, damping):
    g, v, gradients, vector = make_case(m)
    got = solve(gradients, vector, m, damping)
    want = dense(g, v, damping)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(sequential(g, v, damping), want, rtol=1e-10)

  def test_published_recursion_adds_a_multiple_of_the_first_gradient(self):
    g, v, gradients, vector = make_case()
    wrong, o = published(g, v)
    cosine = o @ g[0] / np.linalg.norm(o) / np.linalg.norm(g[0])
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-12)
    moved = wrong - v
    np.testing.assert_allclose(
      moved, g[0] * (moved @ g[0]) / (g[0] @ g[0]), atol=1e-12
    )
    got = solve(gradients, vector, 6, 1.0)
    self.assertGreater(np.linalg.norm(got - wrong), 0.1 * np.linalg.norm(got))

  def test_rows_of_zero_change_nothing(self):
    _, _, gradients, vector = make_case(4)
    padded = jax.tree.map(
      lambda x: jnp.concatenate([x, jnp.zeros_like(x)[:3]]), gradients
    )
    got = solve(padded, vector, 4, 0.3)
    want = solve(gradients, vector, 4, 0.3)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  def test_tiny_damping_stays_finite(self):
    g, _, gradients, _ = make_case(4)
    # In the span of the gradients, where the answer hardly depends on mu.
    v = g.T @ [1.0, -2.0, 0.5, 1.0]
    vector = {'a': jnp.float32(v[:3]), 'b': jnp.float32(v[3:].reshape(2, 1))}
    got = solve(gradients, vector, 4, 1e-3)
    np.testing.assert_allclose(got, dense(g, v, 1e-3), rtol=0.02, atol=0.02)

  def test_types_and_structure_are_kept(self):
    _, _, gradients, vector = make_case()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (gradients, vector))
    got = woodfisher_solve(*half, count=6, damping=1.0)
    want = woodfisher_solve(gradients, vector, count=6, damping=1.0)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      self.assertEqual((a.dtype, a.shape), (jnp.bfloat16, b.shape))
      np.testing.assert_allclose(np.float32(a), b, rtol=0.05, atol=0.05)
    self.assertEqual(jax.tree.structure(got), jax.tree.structure(vector))


if __name__ == '__main__':
  absltest.main()
