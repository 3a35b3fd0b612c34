"""The edit of SSD and LFSSD alone, from importances that are given."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.ssd import dampen

INF, NAN = float('inf'), float('nan')
HYPER = {'threshold': 1.05, 'dampening': 0.9, 'exponent': 0.7}


def twin_edit(params, of_forget, of_all, *, threshold, dampening, exponent):
  """Entry by entry, as the paper has it."""
  params = P.as_float64(params)
  for name, theta in params.items():
    for j in np.ndindex(theta.shape):
      f, d = of_forget[name][j], of_all[name][j]
      if f > threshold * d:
        theta[j] *= min((dampening * d / f) ** exponent, 1.0)
  return params


class DampenTest(parameterized.TestCase):
  def dampen(self, params, of_forget, of_all, **hyper):
    hyper = {'threshold': 10.0, 'dampening': 1.0, 'exponent': 1.0} | hyper
    arrays = {name: jnp.float32(value) for name, value in hyper.items()}
    trees = (jax.tree.map(jnp.float32, t) for t in (params, of_forget, of_all))
    got, metrics = jax.jit(dampen)(*trees, **arrays)
    return got, float(metrics['dampened_share'])

  def random(self):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=200)
    of_forget, of_all = np.exp(3 * rng.normal(size=(2, 200)))
    of_forget[:20] = 0.0
    of_all[10:30] = 0.0
    return np.float32(theta), np.float32(of_forget), np.float32(of_all)

  def test_worked_case(self):
    got, share = self.dampen([2.0, 2.0, 2.0], [4.0, 1.0, 9.0], [0.1, 1.0, 0.5])
    np.testing.assert_allclose(np.stack(got), [0.05, 2.0, 1 / 9], rtol=1e-6)
    self.assertAlmostEqual(share, 2 / 3, places=6)

  @parameterized.parameters(
    HYPER,
    {'threshold': 0.0, 'dampening': 0.5, 'exponent': 1.0},
    {'threshold': 20.0, 'dampening': 30.0, 'exponent': 2.0},
    {'threshold': 1.0, 'dampening': 0.0, 'exponent': 1.0},
  )
  def test_equals_twin(self, **hyper):
    values = self.random()
    got, share = self.dampen(*({'x': v} for v in values), **hyper)
    trees = ({'x': np.float64(v)} for v in values)
    want = twin_edit(*trees, **hyper)
    P.assert_close(got, want, rtol=1e-5)
    moved = (np.abs(want['x']) < np.abs(values[0])).mean()
    self.assertBetween(moved, 0.05, 0.95)
    self.assertAlmostEqual(share, moved, places=6)

  @parameterized.named_parameters(
    ('threshold infinite', {'threshold': INF}),
    ('dampening infinite', {'dampening': INF, 'threshold': 0.5}),
    ('exponent zero', {'exponent': 0.0, 'threshold': 0.5}),
  )
  def test_identity(self, hyper):
    theta, of_forget, of_all = self.random()
    got, share = self.dampen(theta, of_forget, of_all, **hyper)
    P.assert_identical(got, jnp.asarray(theta))
    self.assertEqual(share, 0.0)

  @parameterized.parameters(0.0, 10.0, INF)
  def test_no_forget_importance_changes_nothing(self, threshold):
    theta, _, of_all = self.random()
    got, share = self.dampen(theta, 0 * of_all, of_all, threshold=threshold)
    P.assert_identical(got, jnp.asarray(theta))
    self.assertEqual(share, 0.0)

  @parameterized.parameters(1e-34, 1.0, 1e36)
  def test_importance_to_the_forget_set_alone_gives_zero(self, size):
    got, share = self.dampen([2.0, -3.0], [size, 1e-3 * size], [0.0, 0.0])
    np.testing.assert_array_equal(np.stack(got), [0.0, 0.0])
    self.assertEqual(share, 1.0)

  @parameterized.parameters(0.0, 0.5, 1.0, 5.0, 1e6)
  def test_no_parameter_grows(self, dampening):
    theta, of_forget, of_all = self.random()
    for exponent in (0.3, 1.0, 4.0):
      got, _ = self.dampen(
        theta,
        of_forget,
        of_all,
        threshold=0.1,
        dampening=dampening,
        exponent=exponent,
      )
      self.assertTrue((np.abs(got) <= np.abs(theta)).all())

  def test_doubling_both_importances_changes_nothing(self):
    theta, of_forget, of_all = self.random()
    want, _ = self.dampen(theta, of_forget, of_all, threshold=1.5)
    got, _ = self.dampen(theta, 2 * of_forget, 2 * of_all, threshold=1.5)
    self.assertTrue(P.differ(want, jnp.asarray(theta)))
    P.assert_identical(got, want)

  @parameterized.parameters((NAN, 1.0), (INF, INF), (1.0, NAN), (0.0, NAN))
  def test_an_importance_that_is_not_finite_shows(self, of_forget, of_all):
    got, _ = self.dampen([1.0, 2.0], [of_forget, 0.0], [of_all, 1.0])
    np.testing.assert_array_equal(np.stack(got), [NAN, 2.0])

  def test_types_are_kept(self):
    theta = {'a': jnp.ones(3, jnp.bfloat16), 'b': jnp.ones(3)}
    of_all = jax.tree.map(lambda x: jnp.full(3, 0.01), theta)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    got, _ = dampen(
      theta, {'a': jnp.ones(3), 'b': jnp.ones(3)}, of_all, **hyper
    )
    self.assertEqual(got['a'].dtype, jnp.bfloat16)
    self.assertEqual(got['b'].dtype, jnp.float32)
    want = (0.9 * 0.01) ** 0.7
    np.testing.assert_allclose(np.float32(got['a']), want, rtol=1e-2)


if __name__ == '__main__':
  absltest.main()
