"""The masked mean and the losses against NumPy."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods import registry
from unlearn_jax.methods.superloss import weighted
from unlearn_jax.models.outputs import OutputFn
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.training import loop
from unlearn_jax.training.losses import additive_angular_margin
from unlearn_jax.training.losses import at_once
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.training.piecewise import in_pieces

NAN, INF = float('nan'), float('inf')


def _batch():
  return jax.tree.map(lambda x: x[0], P.make_batches(3, 1, 5))


class Counted:
  """Logits, counting how often they are traced."""

  def __init__(self):
    self.calls = 0

  def __call__(self, params, batch):
    self.calls += 1
    return P.predict_fn(params, batch)


class AtOnceTest(parameterized.TestCase):
  """The network runs once where the loss says that it is of these logits."""

  def check(self, loss_fn, predict_fn, want_calls, counted):
    params, batch = P.make_params(), _batch()
    losses, logits = at_once(loss_fn, predict_fn)(params, batch)
    self.assertEqual(counted.calls, want_calls)
    np.testing.assert_array_equal(losses, loss_fn(params, batch))
    np.testing.assert_array_equal(logits, P.predict_fn(params, batch))

  def test_a_loss_of_these_logits(self):
    counted = Counted()
    self.check(cross_entropy(counted), counted, 1, counted)
    counted = Counted()
    self.check(additive_angular_margin(counted), counted, 1, counted)

  def test_a_superloss_of_these_logits(self):
    counted = Counted()
    self.check(weighted(cross_entropy(counted)), counted, 1, counted)

  def test_any_other_loss(self):
    counted = Counted()
    loss_fn = cross_entropy(counted)
    self.check(lambda *args: loss_fn(*args), counted, 2, counted)

  def test_a_loss_of_other_logits(self):
    counted = Counted()
    self.check(cross_entropy(counted), P.predict_fn, 1, counted)
    self.assertEqual(counted.calls, 2)  # `check` asked the loss once more.

  def test_functions_that_cannot_be_hashed(self):
    """An object of arrays is a function too, also on a part of a network."""

    @dataclasses.dataclass
    class Network:
      scale: jax.Array

      def __call__(self, params, batch):
        return self.scale * P.predict_fn(params, batch)

    network = Network(jnp.float32(2.0))
    losses, logits = at_once(cross_entropy(network), network)(
      P.make_params(), _batch()
    )
    np.testing.assert_array_equal(losses.shape, logits.shape[:1])
    problem = P.make_problem(predict=network)
    spec = registry.spec('lora:scrub')
    made = spec.build(problem, optax.sgd(0.1), **spec.preset.options)
    state = loop.init(made, P.make_params(), jax.random.key(0))
    loop.step(made, state, _batch(), _batch())

  @parameterized.parameters(
    ('scrub', 1),
    ('confidence_matching', 1),
    ('adversarial_probe', 1),
    ('embedding_scrub', 4),  # Of teacher and student, on both sets.
  )
  def test_rules_run_the_network_once(self, name, saved):
    """Also on a part of it, in pieces, and with SuperLoss."""

    def calls(method, of_outputs, microbatch=None):
      counted = Counted()

      def outputs_fn(params, batch):
        logits = counted(params, batch)
        return Outputs(logits, logits)

      functions = [OutputFn(outputs_fn, n) for n in Outputs._fields]
      predict, embed = (in_pieces(f, microbatch) for f in functions)
      losses = cross_entropy(predict)
      if not of_outputs:  # None says what it is of.
        opaque = [lambda *a, f=f: f(*a) for f in (losses, predict, embed)]
        losses, predict, embed = opaque
      problem = dataclasses.replace(
        P.make_problem(), loss_fn=losses, predict_fn=predict, embed_fn=embed
      )
      spec = registry.spec(method)
      made = spec.build(problem, optax.sgd(0.1), **spec.preset.options)
      state = loop.init(made, P.make_params(), jax.random.key(0))
      counted.calls = 0
      batch = _batch()
      jax.eval_shape(lambda s: loop.step(made, s, batch, batch), state)
      return counted.calls

    variants = [(name, None), (f'lora:{name}', None), (name, 2)]
    if registry.spec(name).reads_losses:
      variants.append((f'superloss:{name}', None))
    for method, size in variants:
      got, want = (calls(method, of, size) for of in (True, False))
      self.assertEqual(got, want - saved, (method, size))


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


def margin_loss(cosines, label, **options):
  """Returns the loss of logits that are 30 times `cosines`."""
  options = {'scale': 30.0} | options
  loss_fn = additive_angular_margin(lambda params, _: params, **options)
  return loss_fn(options['scale'] * cosines, {'label': jnp.asarray(label)})


def twin_margin_losses(cosines, label, scale=30.0, margin=0.2):
  """Equation 3 of ArcFace, by angles."""
  logits = scale * np.asarray(cosines, np.float64)
  rows = np.arange(len(logits))
  angle = np.arccos(logits[rows, label] / scale) + margin
  moved = np.where(
    angle <= np.pi,
    np.cos(angle),
    np.cos(angle - margin) + np.cos(margin) - 1,
  )
  logits[rows, label] = scale * moved
  return np.log(np.exp(logits).sum(1)) - logits[rows, label]


class AdditiveAngularMarginTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.2, 0.5, np.pi / 2)
  def test_equals_twin(self, margin):
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1.0, 1.0, (200, 5)).astype(np.float32)
    label = rng.integers(0, 5, 200)
    np.testing.assert_allclose(
      margin_loss(jnp.asarray(cosines), label, margin=margin),
      twin_margin_losses(cosines, label, margin=margin),
      rtol=1e-4,
      atol=1e-4,
    )

  def test_without_margin_is_the_cross_entropy(self):
    cosines = jax.random.uniform(jax.random.key(0), (50, 4), minval=-1.0)
    label = np.arange(50) % 4
    want = cross_entropy(lambda params, _: 30.0 * params)(
      cosines, {'label': jnp.asarray(label)}
    )
    got = margin_loss(cosines, label, margin=0.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

  def test_costs_more_than_the_cross_entropy(self):
    cosines = jax.random.uniform(jax.random.key(0), (50, 4), minval=-1.0)
    label = np.arange(50) % 4
    harder, easier = (
      margin_loss(cosines, label, scale=3.0, margin=m) for m in (0.2, 0.0)
    )
    self.assertTrue((harder > easier).all())

  def test_gradient_equals_differences(self):
    cosines = np.asarray([[0.9, -0.3, 0.2], [-0.99, 0.5, 0.1]])
    label = np.asarray([0, 0])
    got = jax.grad(lambda c: margin_loss(c, label).sum())(jnp.float32(cosines))
    for place in np.ndindex(cosines.shape):
      moved = [np.array(cosines) for _ in range(2)]
      moved[0][place] += 1e-6
      moved[1][place] -= 1e-6
      high, low = (twin_margin_losses(c, label).sum() for c in moved)
      want = (high - low) / 2e-6
      np.testing.assert_allclose(got[place], want, rtol=1e-3, atol=1e-3)

  @parameterized.parameters(1.0, -1.0, 1.0 + 1e-6, -1.0 - 1e-6)
  def test_finite_gradient_along_and_against_the_class(self, cosine):
    cosines = jnp.asarray([[cosine, 0.0], [0.0, cosine]])
    for margin in (0.0, 0.2):
      value, slope = jax.value_and_grad(
        lambda c, m=margin: margin_loss(c, [0, 0], margin=m).sum()
      )(cosines)
      self.assertTrue(jnp.isfinite(value))
      self.assertTrue(jnp.isfinite(slope).all())

  def test_falls_as_the_true_cosine_rises(self):
    # Also across cos(pi - m) = -0.98, where the angle passes pi.
    cosines = jnp.linspace(-1.0, 1.0, 401)
    rows = jnp.stack([cosines, jnp.zeros_like(cosines)], axis=1)
    losses = margin_loss(rows, np.zeros(401, int), scale=5.0)
    self.assertTrue((jnp.diff(losses) < 0).all())
    self.assertLess(jnp.abs(jnp.diff(losses))[:50].max(), 0.1)  # And no jump.

  @parameterized.parameters(
    ({'scale': 0.0}, r'scale must be > 0, got 0.0.$'),
    ({'margin': -0.1}, r'margin must be in \[0, pi / 2\], got -0.1.$'),
    ({'margin': 1.6}, r'margin must be in \[0, pi / 2\], got 1.6.$'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      additive_angular_margin(lambda params, _: params, **options)


if __name__ == '__main__':
  absltest.main()
