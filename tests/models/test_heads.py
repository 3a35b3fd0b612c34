"""The cosine head against NumPy, and where its gradients could break."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models import heads


def make(classes=3, channels=5, batch=4, seed=0):
  rng = np.random.default_rng(seed)
  kernel = rng.normal(size=(channels, classes)).astype(np.float32)
  x = 3.0 * rng.normal(size=(channels, batch)).astype(np.float32)
  return jnp.asarray(kernel), jnp.asarray(x)


def apply(kernel, x):
  return heads.Cosine(kernel.shape[1]).apply({'params': {'kernel': kernel}}, x)


def twin(kernel, x):
  kernel, x = np.asarray(kernel, np.float64), np.asarray(x, np.float64)
  unit = kernel / np.linalg.norm(kernel, axis=0)
  return 30.0 * unit.T @ (x / np.linalg.norm(x, axis=0))


class CosineTest(parameterized.TestCase):
  def test_equals_twin(self):
    kernel, x = make()
    np.testing.assert_allclose(apply(kernel, x), twin(kernel, x), rtol=1e-5)

  def test_neither_length_matters(self):
    kernel, x = make()
    got = apply(0.1 * kernel, 7.0 * x)
    np.testing.assert_allclose(got, apply(kernel, x), rtol=1e-5)

  def test_along_and_against_a_direction(self):
    kernel, _ = make()
    got = apply(kernel, jnp.stack([2 * kernel[:, 1], -kernel[:, 1]], axis=1))
    np.testing.assert_allclose(got[1], [30.0, -30.0], rtol=1e-6)

  def test_gradient_equals_differences(self):
    kernel, x = make()
    mix = np.random.default_rng(1).normal(size=(3, 4))
    got = jax.grad(lambda k, x: (mix * apply(k, x)).sum(), (0, 1))(kernel, x)
    for which, gradient in enumerate(got):
      for place in np.ndindex(gradient.shape):
        at = [np.asarray(a, np.float64) for a in (kernel, x)]
        values = []
        for step in (1e-6, -2e-6):
          at[which][place] += step
          values.append((mix * twin(*at)).sum())
        want = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(gradient[place], want, rtol=1e-3, atol=1e-3)

  def test_zero_vectors_have_logits_of_zero_and_finite_gradients(self):
    kernel, x = make()
    kernel, x = kernel.at[:, 1].set(0.0), x.at[:, 2].set(0.0)
    logits = apply(kernel, x)
    np.testing.assert_array_equal(logits[1], 0.0)
    np.testing.assert_array_equal(logits[:, 2], 0.0)
    for leaf in jax.grad(lambda k, x: apply(k, x).sum(), (0, 1))(kernel, x):
      self.assertTrue(jnp.isfinite(leaf).all())

  def test_gradients_of_single_examples(self):
    kernel, x = make()
    op = heads.UnitProduct()
    cotangent = jax.random.normal(jax.random.key(0), (3, 4))
    got = op.grads(kernel, x, cotangent)
    squares = op.squared_norms(kernel, x, cotangent)
    for i in range(4):
      alone = slice(i, i + 1)
      _, pull = jax.vjp(lambda k, i=alone: op(k, x[:, i]), kernel)
      want = pull(cotangent[:, alone])[0]
      np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-6)
      np.testing.assert_allclose(squares[i], jnp.square(want).sum(), rtol=1e-4)


class MakeTest(absltest.TestCase):
  def test_unknown(self):
    with self.assertRaisesRegex(ValueError, 'one of softmax, aam, got x.$'):
      heads.make('x', 2, 'head')

  def test_kinds(self):
    _, x = make()
    for head, names in (('softmax', {'kernel', 'bias'}), ('aam', {'kernel'})):
      layer = heads.make(head, 3, None)
      params = layer.init(jax.random.key(0), x)['params']
      self.assertEqual(set(params), names)


if __name__ == '__main__':
  absltest.main()
