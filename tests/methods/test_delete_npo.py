"""DELETE and NPO, the rules that need the forget set alone."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P
import scipy.special

from unlearn_jax.methods.delete import delete
from unlearn_jax.methods.delete import delete_direction
from unlearn_jax.methods.delete import without_label
from unlearn_jax.methods.fine_tune import fine_tune_direction
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.gradient_ascent import gradient_ascent_direction
from unlearn_jax.methods.npo import npo
from unlearn_jax.methods.npo import npo_direction
from unlearn_jax.methods.npo import npo_losses
from unlearn_jax.training import loop

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


def table_predict(params, batch):
  """A model whose parameters are its logits, for the worked cases."""
  del batch
  return params['logits']


def table(*logits):
  return {'logits': jnp.asarray([logits])}


_delete_direction = jax.jit(
  functools.partial(delete_direction, predict_fn=P.predict_fn)
)
_delete_from_table = jax.jit(
  functools.partial(
    delete_direction,
    forget={'label': jnp.zeros(1, jnp.int32), 'mask': jnp.ones(1)},
    predict_fn=table_predict,
  )
)
_npo_direction = jax.jit(functools.partial(npo_direction, loss_fn=P.loss_fn))


@functools.cache
def make(rule, **options):
  if rule == 'delete':
    return delete(P.predict_fn, P.sgd(**HEAVY))
  return npo(P.loss_fn, P.sgd(**HEAVY), **options)


def twin_target(original, batch):
  """Logits of the teacher with the true class at minus infinity."""
  logits = P.twin_logits(original, batch)
  logits[np.arange(len(logits)), batch['label']] = -np.inf
  return logits


def twin_delete(theta, original, batch):
  batch = P.real_rows(batch)
  slope = P.twin_kl_gradient(
    twin_target(original, batch), P.twin_logits(theta, batch)
  )
  return P.twin_pullback(batch, slope / max(len(slope), 1))


class DeleteTest(parameterized.TestCase):
  def test_direction_equals_twin(self):
    params, forget, _ = setup()
    batch, original = P.step_of(forget, 0), P.make_params(7)
    got, metrics = _delete_direction(params, batch, original=original)
    theta, theta_o = P.as_float64(params), P.as_float64(original)
    P.assert_close(got, twin_delete(theta, theta_o, batch))
    rows = P.real_rows(batch)
    t = scipy.special.softmax(twin_target(theta_o, rows), axis=-1)
    p = scipy.special.softmax(P.twin_logits(theta, rows), axis=-1)
    kl = scipy.special.rel_entr(t, p).sum(-1).mean()
    np.testing.assert_allclose(metrics['forget_kl'], kl, rtol=1e-5)

  def test_run_equals_twin(self):
    params, forget, _ = setup()
    state, _ = P.run(make('delete'), params, forget, None)
    theta_o = P.as_float64(params)

    def gradient(p, k):
      return twin_delete(p, theta_o, P.step_of(forget, k))

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(state.params, want)

  def test_worked_case(self):
    params = table(3.0, 1.0, 0.0)
    target = without_label(params['logits'], jnp.zeros(1, jnp.int32))
    want = np.float64([[0.0, 0.731059, 0.268941]])
    P.assert_close(jax.nn.softmax(target), want)
    _, metrics = _delete_from_table(params, original=params)
    np.testing.assert_allclose(metrics['forget_kl'], 1.856584, rtol=1e-6)

  def test_loss_at_the_original_is_minus_log_of_the_rest(self):
    params, forget, _ = setup()
    batch = P.step_of(forget, 0)
    _, metrics = _delete_direction(params, batch, original=params)
    losses = P.twin_losses(P.as_float64(params), P.real_rows(batch))
    want = -np.log1p(-np.exp(-losses)).mean()
    np.testing.assert_allclose(metrics['forget_kl'], want, rtol=1e-5)

  @parameterized.parameters(-np.inf, -1e4)
  def test_at_the_target_loss_and_gradient_are_zero(self, excluded):
    at, original = table(excluded, 1.0, 0.0), table(3.0, 1.0, 0.0)
    got, metrics = _delete_from_table(at, original=original)
    self.assertEqual(metrics['forget_kl'], 0.0)
    np.testing.assert_array_equal(got['logits'], np.zeros((1, 3)))

  @parameterized.parameters(
    ([1e4, 1.0, 0.0], [0.0, 0.0, 0.0]),
    ([0.0, 1e4, 0.0], [0.0, 0.0, 0.0]),
    ([1e4, 1.0, 0.0], [1e3, 1.0, 0.0]),
  )
  def test_impossible_classes_give_no_nan(self, original, student):
    got, metrics = _delete_from_table(
      table(*student), original=table(*original)
    )
    t = scipy.special.softmax([-np.inf, *original[1:]])
    p = scipy.special.softmax(student)
    np.testing.assert_allclose(got['logits'], [p - t], rtol=1e-6)
    self.assertBetween(metrics['forget_kl'], 0.5, 1e4)

  def test_two_classes_equal_cross_entropy_to_the_other_label(self):
    _, forget, _ = setup()
    batch = P.step_of(forget, 0)
    batch['label'] %= 2
    params, original = (
      jax.tree.map(lambda x: x[..., :2], P.make_params(k)) for k in (0, 7)
    )
    got, metrics = _delete_direction(params, batch, original=original)
    flipped = {**batch, 'label': 1 - batch['label']}
    want, same = fine_tune_direction(params, flipped, loss_fn=P.loss_fn)
    P.assert_close(got, want)
    P.assert_close(metrics['forget_kl'], same['retain_loss'])


def twin_npo(theta, original, forget, beta):
  rows = P.real_rows(forget)
  change = P.twin_losses(theta, rows) - P.twin_losses(original, rows)
  weights = 2.0 * scipy.special.expit(-beta * change)
  return P.twin_loss_gradient(theta, forget, -weights)


class NpoTest(parameterized.TestCase):
  @parameterized.parameters(0.1, 1.0, 20.0)
  def test_direction_equals_twin(self, beta):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    original = P.make_params(7)
    got, metrics = _npo_direction(
      params, forget, retain, original=original, beta=beta, retain_weight=0.4
    )
    theta, theta_o = P.as_float64(params), P.as_float64(original)
    want = P.add(
      (1.0, twin_npo(theta, theta_o, forget, beta)),
      (0.4, P.twin_loss_gradient(theta, retain)),
    )
    P.assert_close(got, want, rtol=1e-4)
    new, old = (P.twin_losses(p, P.real_rows(forget)) for p in (theta, theta_o))
    npo_loss = -2.0 / beta * scipy.special.log_expit(beta * (new - old)).mean()
    np.testing.assert_allclose(metrics['npo_loss'], npo_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics['forget_loss'], new.mean(), rtol=1e-5)

  @parameterized.parameters(0.0, 0.5)
  def test_run_equals_twin(self, retain_weight):
    params, forget, retain = setup()
    method = make('npo', beta=2.0, retain_weight=retain_weight)
    state, _ = P.run(method, params, forget, retain if retain_weight else None)
    theta_o = P.as_float64(params)

    def gradient(p, k):
      return P.add(
        (1.0, twin_npo(p, theta_o, P.step_of(forget, k), 2.0)),
        (retain_weight, P.twin_loss_gradient(p, P.step_of(retain, k))),
      )

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(state.params, want, rtol=1e-4)

  def test_worked_case(self):
    loss = lambda x: npo_losses(x, jnp.float32(1.0), 0.1)  # noqa: E731
    got, slope = jax.value_and_grad(loss)(1.5)
    np.testing.assert_allclose((got, slope), (13.369193, -0.975005), rtol=1e-6)

  @parameterized.parameters(1e-6, 0.1, 3.0, 100.0)
  def test_at_the_original_the_gradient_is_that_of_ascent(self, beta):
    params, forget, _ = setup()
    batch = P.step_of(forget, 0)
    got, _ = _npo_direction(params, batch, None, original=params, beta=beta)
    want, _ = gradient_ascent_direction(params, batch, loss_fn=P.loss_fn)
    P.assert_close(got, want)

  def test_beta_towards_zero_equals_gradient_ascent(self):
    params, forget, _ = setup()
    got, _ = P.run(make('npo', beta=1e-6), params, forget, None)
    ascent = gradient_ascent(P.loss_fn, P.sgd(**HEAVY))
    want, _ = P.run(ascent, params, forget, None)
    P.assert_close(got.params, want.params, rtol=1e-4)
    # A larger beta does not give the same.
    faded, _ = P.run(make('npo', beta=2.0), params, forget, None)
    gap = faded.params['bias'] - want.params['bias']
    self.assertGreater(np.abs(gap).max(), 0.1)

  @parameterized.parameters(1e3, np.inf)
  def test_weights_lie_between_zero_and_two(self, loss):
    # The losses are far above, at and far below those of the original.
    original = jnp.asarray([1.0, 1.0, 1e3])
    value, slope = jax.value_and_grad(
      lambda x: npo_losses(x, original, 1.0).sum()
    )(jnp.asarray([loss, 1.0, 0.0]))
    np.testing.assert_array_equal(slope, [0.0, -1.0, -2.0])
    np.testing.assert_allclose(value, 2.0 * np.log(2.0) + 2e3, rtol=1e-6)

  def test_weight_zero_reads_no_retain_batch(self):
    (params, forget, retain), method = setup(), make('npo')
    poison = {**retain, 'features': jnp.nan * retain['features']}
    got, want = (P.run(method, params, forget, r)[0] for r in (poison, None))
    P.assert_identical(got, want)
    self.assertNotIn('retain_weight', want.method_state.hyper)

  def test_vmap_over_hyper_parameters(self):
    params, forget, retain = setup()
    method = make('npo', beta=2.0, retain_weight=0.5)
    beta, weight = np.float32([0.1, 2.0]), np.float32([1.0, 0.25])

    def start(beta, weight):
      state = loop.init(method, params, jax.random.key(0))
      hyper = {'beta': jnp.float32(beta), 'retain_weight': jnp.float32(weight)}
      return optax.tree_utils.tree_set(state, **hyper)

    states = jax.vmap(start)(beta, weight)
    many, _ = jax.vmap(lambda s: loop.run(method, s, forget, retain))(states)
    for k in range(2):
      one, _ = loop.run(method, start(beta[k], weight[k]), forget, retain)
      P.assert_close(P.step_of(many.params, k), one.params)
    self.assertGreater(np.ptp(many.params['bias'][:, 0]), 0.01)

  @parameterized.parameters(
    ({'beta': 0.0}, r'beta must be in \(0, inf\), got 0.0'),
    ({'beta': float('nan')}, r'beta must be in \(0, inf\), got nan'),
    ({'retain_weight': -1.0}, r'retain_weight must be >= 0, got -1.0'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      npo(P.loss_fn, P.sgd(), **options)


@parameterized.parameters('delete', 'npo')
class BothTest(parameterized.TestCase):
  def test_behind_the_mask_nothing_counts(self, rule):
    params, forget, _ = setup()
    other = P.nonsense(forget, -7)
    other['features'] /= other['mask'][..., None]  # Infinite, then.
    want, metrics = P.run(make(rule), params, forget, None)
    got, same = P.run(make(rule), params, other, None)
    P.assert_identical((got, same), (want, metrics))
    self.assertTrue(np.isfinite(want.params['kernel']).all())

  def test_a_batch_is_a_mean_over_its_examples(self, rule):
    params, forget, _ = setup()
    batch, original = P.step_of(forget, 0), P.make_params(7)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    one, two = (
      _delete_direction(params, b, original=original)[0]
      if rule == 'delete'
      else _npo_direction(params, b, None, original=original, beta=2.0)[0]
      for b in (batch, twice)
    )
    P.assert_close(two, one)

  def test_types_are_kept(self, rule):
    params, forget, _ = setup()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    state, _ = P.run(make(rule), half, forget, None)
    for leaf in jax.tree.leaves(state.params):
      self.assertEqual(leaf.dtype, jnp.bfloat16)
    self.assertTrue(P.differ(state.params, half))


if __name__ == '__main__':
  absltest.main()
