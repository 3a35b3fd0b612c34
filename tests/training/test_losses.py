"""The masked mean and the cross-entropy against NumPy."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.losses import masked_mean

NAN, INF = float('nan'), float('inf')


class MaskedMeanTest(parameterized.TestCase):
  @parameterized.parameters(
    ((1.0, 2.0, 6.0), (1.0, 1.0, 1.0), 3.0),
    ((1.0, 2.0, 6.0), (1.0, 0.0, 1.0), 3.5),
    ((1.0, 2.0, 6.0), (0.0, 0.0, 1.0), 6.0),
    ((1.0, 2.0, 6.0), (0.0, 0.0, 0.0), 0.0),
    ((1.0, NAN, 6.0), (1.0, 0.0, 1.0), 3.5),
    ((INF, 2.0, -INF), (0.0, 1.0, 0.0), 2.0),
    ((NAN, INF, -INF), (0.0, 0.0, 0.0), 0.0),
  )
  def test_value_and_gradient(self, values, mask, want):
    mask = jnp.asarray(mask)
    got, slope = jax.value_and_grad(masked_mean)(jnp.asarray(values), mask)
    np.testing.assert_allclose(got, want, rtol=1e-7)
    np.testing.assert_allclose(slope, mask / max(mask.sum(), 1.0), rtol=1e-7)

  @parameterized.parameters(INF, -INF)
  def test_an_infinity_that_counts_shows(self, value):
    got = masked_mean(jnp.asarray([1.0, value]), jnp.ones(2))
    self.assertEqual(got, value)

  def test_a_nan_that_counts_shows(self):
    got = masked_mean(jnp.asarray([1.0, NAN]), jnp.ones(2))
    self.assertTrue(np.isnan(got))

  def test_equals_numpy(self):
    rng = np.random.default_rng(0)
    values, keep = rng.normal(size=1000), rng.random(1000) < 0.3
    got = masked_mean(jnp.float32(values), jnp.float32(keep))
    np.testing.assert_allclose(got, values[keep].mean(), rtol=1e-5)


class CrossEntropyTest(parameterized.TestCase):
  def test_equals_twin(self):
    params, batch = P.make_params(), P.make_examples(9)
    got = cross_entropy(P.predict_fn)(params, batch)
    self.assertEqual(got.shape, (9,))
    theta = P.as_float64(params)
    np.testing.assert_allclose(got, P.twin_losses(theta, batch), rtol=1e-5)

  def test_gradient_equals_twin(self):
    params, batch = P.make_params(), P.make_batches(1, 1, 9, padding=2)
    batch = P.step_of(batch, 0)
    loss_fn = cross_entropy(P.predict_fn)
    got = jax.jit(
      jax.grad(lambda p: masked_mean(loss_fn(p, batch), batch['mask']))
    )(params)
    P.assert_close(got, P.twin_loss_gradient(P.as_float64(params), batch))

  def test_uniform_prediction_costs_log_classes(self):
    loss_fn = cross_entropy(lambda params, batch: jnp.full((2, 12), 7.0))
    got = loss_fn((), {'label': jnp.asarray([0, 11])})
    np.testing.assert_allclose(got, np.log([12, 12]), rtol=1e-6)

  def test_large_logits_neither_overflow_nor_vanish(self):
    logits = jnp.asarray([[1e4, 0.0], [0.0, 1e4]])
    loss_fn = cross_entropy(lambda params, batch: logits)
    got = loss_fn((), {'label': jnp.asarray([1, 1])})
    np.testing.assert_allclose(got, [1e4, 0.0])


if __name__ == '__main__':
  absltest.main()
