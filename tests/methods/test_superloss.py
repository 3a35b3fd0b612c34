"""SuperLoss: its weights against SciPy, and rules with it against the twin."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P
import scipy.optimize
import scipy.special

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.superloss import lambert_w
from unlearn_jax.methods.superloss import superloss
from unlearn_jax.methods.superloss import superloss_weights
from unlearn_jax.methods.superloss import with_superloss
from unlearn_jax.training import loop

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
E = math.e
INVERSE_E, REST = 0.36787944117144233, -1.2428753672788363e-17

_weights = jax.jit(superloss_weights)


def build(loss_fn):
  return neg_grad_plus(loss_fn, P.sgd(**HEAVY), retain_weight=0.7)


@functools.cache
def make(threshold='moving'):
  return with_superloss(build, P.loss_fn, threshold=threshold, rho=0.8)


def setup():
  """The forget set has no example at the first step, nor at the fourth."""
  forget = P.steps_of(
    P.make_batches(1, STEPS, 5, padding=1), [-1, 1, 2, -1, 4, 5]
  )
  return P.make_params(), forget, P.make_batches(2, STEPS, 7, padding=2)


def twin_weights(losses, threshold, regularisation):
  x = 0.5 * np.maximum(-2 / E, (losses - threshold) / regularisation)
  return np.exp(-scipy.special.lambertw(np.maximum(x, -1 / E + 1e-12)).real)


def run(method, params, forget, retain, **hyper):
  state = loop.init(method, params, jax.random.key(0))
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  if hyper:
    state = optax.tree_utils.tree_set(state, **arrays)
  return loop.run(method, state, forget, retain)


class LambertTest(parameterized.TestCase):
  @parameterized.parameters((jnp.float64, 1e-12), (jnp.float32, 3e-6))
  def test_equals_scipy(self, dtype, tolerance):
    near = -1 / E + np.logspace(-15, -1, 2000)
    far = np.concatenate([np.logspace(-9, 6, 2000), [0.0]])
    x = np.concatenate([near, far]).astype(dtype)
    with jax.enable_x64(True):
      got = np.asarray(jax.jit(lambert_w)(jnp.asarray(x)))
    self.assertEqual(got.dtype, dtype)
    # SciPy stops at 8 digits, Newton's method goes on; and beside the branch
    # point the series has more.
    x = np.float64(x)
    want = scipy.special.lambertw(np.maximum(x, -1 / E + 1e-12)).real
    for _ in range(2):
      want = want - (want - x * np.exp(-want)) / (want + 1)
    root = np.sqrt(2 * E * np.maximum(x + INVERSE_E + REST, 0.0))
    series = -1 + root - root**2 / 3 + 11 / 72 * root**3
    want = np.where(root < 1e-3, series, want)
    error = np.abs(np.exp(-np.float64(got)) - np.exp(-want))
    self.assertLess(error.max(), tolerance)

  def test_at_and_below_the_branch_point(self):
    below = jnp.asarray([-1 / E, -0.4, -1e9, -jnp.inf], jnp.float32)
    np.testing.assert_array_equal(lambert_w(below), -np.ones(4))
    with jax.enable_x64(True):
      exact = jnp.asarray([0.5 * (-2 / E), -1.0], jnp.float64)
      np.testing.assert_array_equal(lambert_w(exact), -np.ones(2))

  def test_far_out_stays_finite(self):
    x = jnp.asarray([1e10, 1e20, 3e38], jnp.float32)
    want = scipy.special.lambertw(np.float64(x)).real
    np.testing.assert_allclose(lambert_w(x), want, rtol=1e-6)
    self.assertTrue(np.isfinite(lambert_w(jnp.float32(jnp.inf))))
    self.assertTrue(np.isnan(lambert_w(jnp.float32(jnp.nan))))


class SuperlossTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 1.0, 0.0),
    (1.0, 0.703467, 0.827184),
    (2 * E, 1 / E, 3.0),
    (-2 / E, E, -1.0),
    (-10.0, E, -10 * E + 1),
  )
  def test_worked_cases(self, difference, weight, value):
    losses = jnp.asarray([difference + 2.0], jnp.float32)
    got = superloss_weights(losses, 2.0, 1.0)
    # The fourth case is the branch point itself: W has no slope there.
    np.testing.assert_allclose(got, weight, rtol=1e-3)
    np.testing.assert_allclose(superloss(losses, 2.0, 1.0), value, rtol=1e-5)

  @parameterized.product(difference=(-0.6, -0.1, 0.7, 6.0), lam=(0.9, 3.0))
  def test_weight_is_the_minimiser_and_the_loss_the_minimum(
    self, difference, lam
  ):
    found = scipy.optimize.minimize_scalar(
      lambda w: difference * math.exp(-w) + lam * w**2,
      bounds=(-1.0, 5.0),
      method='bounded',
      options={'xatol': 1e-9},
    )
    losses = jnp.asarray([difference], jnp.float32)
    got = superloss_weights(losses, 0.0, lam)
    np.testing.assert_allclose(got, math.exp(-found.x), rtol=1e-4)
    value = superloss(losses, 0.0, lam)
    np.testing.assert_allclose(value, found.fun, rtol=1e-5, atol=1e-6)

  def test_gradient_is_the_weight_and_the_weight_has_none(self):
    losses = jnp.asarray([-30.0, -0.4, 0.0, 0.5, 9.0, 400.0])
    got = jax.grad(lambda x: superloss(x, 0.3, 0.8).sum())(losses)
    np.testing.assert_array_equal(got, superloss_weights(losses, 0.3, 0.8))
    none = jax.grad(lambda x: superloss_weights(x, 0.3, 0.8).sum())(losses)
    np.testing.assert_array_equal(none, np.zeros(6))

  def test_falls_as_the_loss_grows_within_its_bounds(self):
    losses = jnp.concatenate(
      [jnp.linspace(-2.0, 9.0, 500), jnp.asarray([1e30])]
    )
    got = np.asarray(_weights(losses, 1.0, 0.7))
    above = np.asarray(losses) > 1.0 - 0.7 * 2 / E
    self.assertTrue((np.diff(got[above]) < 0).all())
    np.testing.assert_allclose(got[~above], E, rtol=1e-6)
    self.assertTrue((got > 0).all())

  def test_infinite_regularisation_gives_the_loss_less_the_threshold(self):
    losses = jnp.asarray([0.1, 5.0, 1e4])
    got = superloss_weights(losses, 0.5, jnp.inf)
    np.testing.assert_array_equal(got, np.ones(3))
    np.testing.assert_array_equal(superloss(losses, 0.5, jnp.inf), losses - 0.5)

  def test_losses_at_the_threshold_have_the_weight_one(self):
    losses = jnp.full(4, 1.7)
    got = superloss_weights(losses, losses[0], 0.01)
    np.testing.assert_array_equal(got, np.ones(4))
    np.testing.assert_array_equal(superloss(losses, losses[0], 0.01), 0 * got)


class RunTest(parameterized.TestCase):
  def twin_gradient(self, theta, batches, thresholds, regularisation):
    terms = []
    for share, batch, threshold in zip(
      (-0.3, 0.7), batches, thresholds, strict=True
    ):
      rows = P.real_rows(batch)
      losses = P.twin_losses(theta, rows)
      weight = twin_weights(losses, threshold, regularisation)
      terms.append((share, P.twin_loss_gradient(theta, rows, weight)))
    return P.add(*terms)

  def test_constant_threshold_equals_twin(self):
    params, forget, retain = setup()
    got, _ = run(make(1.2), params, forget, retain, regularisation=0.5)

    def gradient(theta, k):
      pair = P.step_of(forget, k), P.step_of(retain, k)
      return self.twin_gradient(theta, pair, (1.2, 1.2), 0.5)

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(got.params, want, rtol=1e-4, atol=1e-5)

  def test_moving_threshold_equals_twin(self):
    params, forget, retain = setup()
    got, _ = run(make(), params, forget, retain, regularisation=0.5, rho=0.6)
    averages = [None, None]

    def gradient(theta, k):
      pair = P.step_of(forget, k), P.step_of(retain, k)
      used = []
      for side, batch in enumerate(pair):
        losses = P.twin_losses(theta, P.real_rows(batch))
        mean = losses.mean() if len(losses) else None
        used.append(mean if averages[side] is None else averages[side])
        if mean is not None:
          averages[side] = 0.6 * used[side] + 0.4 * mean
      used = [0.0 if value is None else value for value in used]
      return self.twin_gradient(theta, pair, used, 0.5)

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(got.params, want, rtol=1e-4, atol=1e-5)
    state = got.method_state
    for side, name in enumerate(('forget', 'retain')):
      np.testing.assert_allclose(
        state.averages[name], averages[side], rtol=1e-4
      )
      self.assertTrue(state.started[name])

  @parameterized.parameters('moving', 1.2)
  def test_infinite_regularisation_equals_the_inner_rule(self, threshold):
    params, forget, retain = setup()
    method = make(threshold)
    got, _ = run(method, params, forget, retain, regularisation=jnp.inf)
    want, _ = P.run(build(P.loss_fn), params, forget, retain)
    P.assert_close(got.params, want.params, rtol=1e-5, atol=1e-6)
    other, _ = run(method, params, forget, retain, regularisation=0.5)
    self.assertGreater(
      np.abs(other.params['bias'] - got.params['bias']).max(), 1e-3
    )

  def test_what_stands_behind_the_mask_changes_nothing(self):
    params, forget, retain = setup()
    want = run(make(), params, forget, retain)
    # A label that is none gives a loss that is not a number.
    got = run(make(), params, P.nonsense(forget, -7), P.nonsense(retain, 101))
    P.assert_identical(got, want)
    self.assertTrue(np.isfinite(got[0].params['kernel']).all())

  def test_padding_leaves_the_average_and_the_first_example_makes_it(self):
    params, forget, retain = setup()
    pair = P.step_of(forget, 0), P.step_of(retain, 0)
    method = make()
    state = method.init(params, jax.random.key(0))
    params, state, _ = method.update(params, state, *pair, jax.random.key(1))
    self.assertFalse(state.started['forget'])
    self.assertTrue(state.started['retain'])
    mean = P.twin_losses(P.as_float64(P.make_params()), P.real_rows(pair[1]))
    np.testing.assert_allclose(state.averages['retain'], mean.mean(), rtol=1e-5)

  def test_a_side_that_the_inner_rule_does_not_need_may_be_none(self):
    params, _, retain = setup()
    method = with_superloss(
      lambda loss_fn: fine_tune(loss_fn, P.sgd(0.1)), P.loss_fn
    )
    state, _ = P.run(method, params, None, retain)
    self.assertTrue(P.differ(state.params, params))
    self.assertFalse(state.method_state.started['forget'])

  def test_vmap_over_regularisation_equals_separate_runs(self):
    params, forget, retain = setup()
    values = jnp.asarray([0.3, 1.0, 10.0])
    state = jax.vmap(
      lambda v: optax.tree_utils.tree_set(
        loop.init(make(), params, jax.random.key(0)), regularisation=v + 0.0
      )
    )(values)
    many, _ = jax.vmap(lambda s: loop.run(make(), s, forget, retain))(state)
    for k, value in enumerate(values):
      one, _ = run(make(), params, forget, retain, regularisation=value)
      P.assert_close(P.step_of(many.params, k), one.params)

  def test_prepare_of_the_inner_rule_measures_plain_losses(self):
    params, forget, retain = setup()

    def masked(loss_fn):
      return salun(build(loss_fn), loss_fn, fraction=0.4)

    method = with_superloss(masked, P.loss_fn, regularisation=0.5)
    state, _ = P.run(method, params, forget, retain, prepare=True)
    plain = loop.init(masked(P.loss_fn), params, jax.random.key(0))
    plain = loop.prepare(masked(P.loss_fn), plain, forget, retain)
    mask = plain.method_state.mask
    P.assert_identical(state.method_state.inner.mask, mask)
    moved = jax.tree.map(lambda a, b: a != b, state.params, params)
    P.assert_identical(moved, mask)
    self.assertIsNone(make().prepare)


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'regularisation': 0.0}, 'regularisation must be > 0, got 0.0'),
    ({'regularisation': float('nan')}, 'regularisation must be > 0, got nan'),
    ({'rho': 1.1}, r'rho must be in \[0, 1\], got 1.1'),
    ({'threshold': 'fixed'}, "'moving' or a finite number, got 'fixed'"),
    ({'threshold': math.inf}, "'moving' or a finite number, got inf"),
  )
  def test_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      with_superloss(build, P.loss_fn, **options)


if __name__ == '__main__':
  absltest.main()
