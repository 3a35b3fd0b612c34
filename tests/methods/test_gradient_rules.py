"""Fine-tuning, gradient ascent and NegGrad+ against the NumPy twin."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.fine_tune import fine_tune_direction
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.gradient_ascent import gradient_ascent_direction
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus_direction

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


class FineTuneTest(parameterized.TestCase):
  def test_direction_equals_closed_form(self):
    params, _, retain = setup()
    batch = P.step_of(retain, 0)
    got, metrics = fine_tune_direction(params, batch, loss_fn=P.loss_fn)
    P.assert_close(got, P.twin_loss_gradient(P.as_float64(params), batch))
    want = P.twin_losses(P.as_float64(params), P.real_rows(batch)).mean()
    np.testing.assert_allclose(metrics['retain_loss'], want, rtol=1e-6)

  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_run_equals_twin(self, **optimizer):
    params, _, retain = setup()
    method = fine_tune(P.loss_fn, P.sgd(**optimizer))
    state, _ = P.run(method, params, None, retain)
    want = P.twin_run(
      lambda p, k: P.twin_loss_gradient(p, P.step_of(retain, k)),
      params,
      STEPS,
      **optimizer,
    )
    P.assert_close(state.params, want)


class GradientAscentTest(parameterized.TestCase):
  @parameterized.parameters(0.8, 1.5, float('inf'))
  def test_direction_equals_closed_form(self, max_loss):
    params, forget, _ = setup()
    # All the steps as one batch, so that every bound splits the examples.
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), forget)
    got, metrics = gradient_ascent_direction(
      params, batch, loss_fn=P.loss_fn, max_loss=max_loss
    )
    losses = P.twin_losses(P.as_float64(params), P.real_rows(batch))
    pushing = losses < max_loss
    self.assertTrue(pushing.any())
    want = P.twin_loss_gradient(P.as_float64(params), batch, -1.0 * pushing)
    P.assert_close(got, want)
    np.testing.assert_allclose(metrics['forget_loss'], losses.mean(), rtol=1e-6)

  def test_one_sgd_step_is_theta_plus_eta_gradient(self):
    params, forget, _ = setup()
    first = jax.tree.map(lambda x: x[:1], forget)
    method = gradient_ascent(P.loss_fn, P.sgd(0.3))
    state, _ = P.run(method, params, first, None)
    theta = P.as_float64(params)
    gradient = P.twin_loss_gradient(theta, P.step_of(forget, 0))
    P.assert_close(state.params, P.add((1.0, theta), (0.3, gradient)))

  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_run_equals_twin(self, **optimizer):
    params, forget, _ = setup()
    method = gradient_ascent(P.loss_fn, P.sgd(**optimizer), max_loss=2.0)

    def gradient(p, k):
      batch = P.step_of(forget, k)
      pushing = P.twin_losses(p, P.real_rows(batch)) < 2.0
      return P.twin_loss_gradient(p, batch, -1.0 * pushing)

    state, _ = P.run(method, params, forget, None)
    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)

  def test_max_loss_zero_is_identity(self):
    params, forget, _ = setup()
    method = gradient_ascent(P.loss_fn, P.sgd(1.0, 0.9), max_loss=0.0)
    state, _ = P.run(method, params, forget, None)
    P.assert_identical(state.params, params)

  def test_loss_at_the_bound_stops_pushing(self):
    params, forget, _ = setup()
    batch = P.step_of(forget, 0)
    same = jax.tree.map(lambda x: jnp.stack([x[0]] * 3), batch)
    loss = float(P.loss_fn(params, same)[0])
    got, _ = gradient_ascent_direction(
      params, same, loss_fn=P.loss_fn, max_loss=loss
    )
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, params))

  def test_example_with_infinite_loss_does_not_give_nan(self):
    params, forget, _ = setup()
    got, metrics = gradient_ascent_direction(
      params,
      P.step_of(forget, 0),
      loss_fn=lambda p, b: P.loss_fn(p, b) + jnp.inf,
      max_loss=1.0,
    )
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, params))
    self.assertEqual(metrics['forget_loss'], np.inf)

  @parameterized.parameters(-0.5, float('nan'))
  def test_bounds(self, max_loss):
    message = rf'max_loss must be >= 0, got {max_loss}'
    with self.assertRaisesRegex(ValueError, message):
      gradient_ascent(P.loss_fn, P.sgd(), max_loss=max_loss)


class NegGradPlusTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.3, 1.0)
  def test_direction_equals_closed_form(self, weight):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    got, metrics = neg_grad_plus_direction(
      params, forget, retain, loss_fn=P.loss_fn, retain_weight=weight
    )
    theta = P.as_float64(params)
    want = P.add(
      (weight, P.twin_loss_gradient(theta, retain)),
      (weight - 1.0, P.twin_loss_gradient(theta, forget)),
    )
    P.assert_close(got, want)
    for name, batch in (('forget_loss', forget), ('retain_loss', retain)):
      mean = P.twin_losses(theta, P.real_rows(batch)).mean()
      np.testing.assert_allclose(metrics[name], mean, rtol=1e-6)

  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_run_equals_twin(self, **optimizer):
    params, forget, retain = setup()
    method = neg_grad_plus(P.loss_fn, P.sgd(**optimizer), retain_weight=0.7)

    def gradient(p, k):
      return P.add(
        (0.7, P.twin_loss_gradient(p, P.step_of(retain, k))),
        (-0.3, P.twin_loss_gradient(p, P.step_of(forget, k))),
      )

    state, _ = P.run(method, params, forget, retain)
    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)

  def test_weight_does_not_depend_on_batch_sizes(self):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), forget)
    once, doubled = (
      neg_grad_plus_direction(
        params, f, retain, loss_fn=P.loss_fn, retain_weight=0.4
      )[0]
      for f in (forget, twice)
    )
    P.assert_close(doubled, once)

  def test_retain_weight_one_equals_fine_tune(self):
    params, forget, retain = setup()
    both = neg_grad_plus(P.loss_fn, P.sgd(**HEAVY), retain_weight=1.0)
    one = fine_tune(P.loss_fn, P.sgd(**HEAVY))
    got, _ = P.run(both, params, forget, retain)
    want, _ = P.run(one, params, None, retain)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  def test_retain_weight_zero_equals_gradient_ascent(self):
    params, forget, retain = setup()
    both = neg_grad_plus(P.loss_fn, P.sgd(**HEAVY), retain_weight=0.0)
    one = gradient_ascent(P.loss_fn, P.sgd(**HEAVY))
    got, _ = P.run(both, params, forget, retain)
    want, _ = P.run(one, params, forget, None)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  @parameterized.parameters(-0.1, 1.2, float('nan'))
  def test_bounds(self, weight):
    message = rf'retain_weight must be in \[0, 1\], got {weight}'
    with self.assertRaisesRegex(ValueError, message):
      neg_grad_plus(P.loss_fn, P.sgd(), retain_weight=weight)


if __name__ == '__main__':
  absltest.main()
