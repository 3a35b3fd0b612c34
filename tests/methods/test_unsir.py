"""UNSIR: its noise and its two kinds of steps against the NumPy twin."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.unsir import draw_labels
from unlearn_jax.methods.unsir import make_noise
from unlearn_jax.methods.unsir import stand_in
from unlearn_jax.methods.unsir import unsir
from unlearn_jax.training import loop

HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
# Three steps that impair, then three that repair.
ORDER = (0, 1, 2, -1, -1, -1)
STEPS = len(ORDER)
MOMENTS = (
  jnp.asarray([0.5, -2.0, 0.0, 1.0]),
  jnp.asarray([1.0, 0.2, 3.0, 0.5]),
)

_noise = jax.jit(
  functools.partial(make_noise, loss_fn=P.loss_fn, input_name='features'),
  static_argnames='steps',
)


def setup():
  forget = P.steps_of(P.make_batches(1, 3, 5, padding=1), ORDER)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


METHOD = unsir(P.loss_fn, P.sgd(**HEAVY), noise_examples=6, noise_steps=3)


def start(params, forget, retain, key=0, **hyper):
  """The state after `prepare`; hyper-parameters are set before it."""
  state = set_hyper(loop.init(METHOD, params, jax.random.key(key)), **hyper)
  return loop.prepare(METHOD, state, forget, retain)


def set_hyper(state, **hyper):
  arrays = {name: jnp.array(v, jnp.float32) for name, v in hyper.items()}
  return optax.tree_utils.tree_set(state, **arrays) if hyper else state


def run(params, forget, retain, **hyper):
  state = start(params, forget, retain, **hyper)
  return loop.run(METHOD, state, forget, retain)


def twin_noise(params, start, label, steps, learning_rate, decay):
  """Adam on w ||u||^2 - CE, in float64."""
  theta = P.as_float64(params)
  mean, std = (np.asarray(m, np.float64) for m in MOMENTS)
  u, rows = np.asarray(start, np.float64), np.arange(len(label))
  first, second = np.zeros_like(u), np.zeros_like(u)
  for t in range(1, steps + 1):
    p = np.exp(P.twin_log_softmax(P.twin_logits(theta, at(mean + std * u))))
    p[rows, label] -= 1.0
    gradient = 2 * decay * u - (p @ theta['kernel'].T) * std
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    scale = np.sqrt(second / (1 - 0.999**t)) + 1e-8
    u = u - learning_rate * first / (1 - 0.9**t) / scale
  return mean + std * u


def at(features):
  return {'features': features}


class NoiseTest(parameterized.TestCase):
  def start(self, count=8):
    start = jax.random.normal(jax.random.key(3), (count, P.FEATURES))
    return P.make_params(), start, jnp.arange(count) % P.CLASSES

  @parameterized.parameters((0, 0.1, 0.1), (4, 0.1, 0.1), (4, 0.3, 0.0))
  def test_equals_adam_on_the_cross_entropy(self, steps, rate, decay):
    params, start, label = self.start()
    got = _noise(
      params,
      start,
      label,
      MOMENTS,
      steps=steps,
      noise_learning_rate=rate,
      noise_decay=decay,
    )
    want = twin_noise(params, start, label, steps, rate, decay)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)

  def test_an_example_does_not_depend_on_their_number(self):
    params, start, label = self.start()
    options = dict(steps=4, noise_learning_rate=0.1, noise_decay=0.1)
    many = _noise(params, start, label, MOMENTS, **options)
    few = _noise(params, start[:3], label[:3], MOMENTS, **options)
    np.testing.assert_allclose(few, many[:3], rtol=1e-4, atol=1e-5)

  def test_starts_with_the_moments_of_the_retain_set(self):
    params, forget, retain = setup()
    method = unsir(P.loss_fn, P.sgd(), noise_examples=4000, noise_steps=0)
    # What stands behind the mask is not finite and has no part in it.
    keep = retain['mask'][..., None] > 0
    retain['features'] = jnp.where(keep, retain['features'], jnp.nan)
    state = loop.init(method, params, jax.random.key(0))
    noise = loop.prepare(method, state, forget, retain).method_state.noise
    kept = np.asarray(retain['features'])[np.asarray(retain['mask']) > 0]
    np.testing.assert_allclose(noise.mean(0), kept.mean(0), atol=0.06)
    np.testing.assert_allclose(noise.std(0), kept.std(0), rtol=0.05)


class LabelTest(parameterized.TestCase):
  def test_as_often_as_in_the_forget_set(self):
    label = jnp.asarray([[0, 2, 101], [2, 2, 101]], jnp.int32)
    mask = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    forget = {'label': label, 'mask': mask}
    got = draw_labels(jax.random.key(0), forget, None, 2000)
    self.assertEqual((got.shape, got.dtype), ((2000,), jnp.int32))
    shares = np.bincount(got, minlength=3) / 2000
    np.testing.assert_allclose(shares, [0.25, 0.0, 0.75], atol=0.05)

  def test_of_index_batches(self):
    examples = {'label': jnp.asarray([7, 1, 7, 2], jnp.int32)}
    forget = batches.one_pass(np.asarray([1, 3, 1]), 2)
    got = draw_labels(jax.random.key(0), forget, examples, 50)
    self.assertEqual(set(np.asarray(got).tolist()), {1, 2})

  def test_of_an_empty_forget_set_are_finite(self):
    forget = {'label': jnp.ones((1, 3), jnp.int32), 'mask': jnp.zeros((1, 3))}
    got = draw_labels(jax.random.key(0), forget, None, 4)
    np.testing.assert_array_equal(got, np.ones(4))


class StandInTest(parameterized.TestCase):
  def test_real_rows_take_neighbours_and_padding_moves_none(self):
    noise, label = jnp.arange(10.0).reshape(5, 2), jnp.arange(5)
    key = jax.random.key(1)

    def rows(mask):
      forget = {'x': jnp.full((len(mask), 2), jnp.nan), 'mask': mask}
      got = stand_in(forget, noise, label, 'x', key)
      np.testing.assert_array_equal(got['x'], noise[got['label']])
      return np.asarray(got['label'])[np.asarray(mask) > 0]

    plain = rows(jnp.ones(4))
    np.testing.assert_array_equal(np.diff(plain) % 5, [1, 1, 1])
    mask = jnp.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(rows(mask), plain)


class RunTest(parameterized.TestCase):
  def test_equals_twin(self):
    params, forget, retain = setup()
    state = start(params, forget, retain, key=4, repair_scale=0.3)
    key = jnp.copy(state.key)
    made = jax.tree.map(jnp.copy, state.method_state)
    state, metrics = loop.run(METHOD, state, forget, retain)
    theta = P.as_float64(params)
    velocity = jax.tree.map(np.zeros_like, theta)
    for k in range(STEPS):
      noise = stand_in(
        P.step_of(forget, k),
        made.noise,
        made.label,
        'features',
        jax.random.fold_in(key, k),
      )
      losses = P.twin_losses(theta, P.real_rows(noise))
      want = losses.sum() / max(len(losses), 1)
      np.testing.assert_allclose(metrics['noise_loss'][k], want, rtol=1e-4)
      gradient = P.add(
        (1.0, P.twin_loss_gradient(theta, noise)),
        (1.0, P.twin_loss_gradient(theta, P.step_of(retain, k))),
        (HEAVY['weight_decay'], theta),
      )
      velocity = P.add((HEAVY['momentum'], velocity), (1.0, gradient))
      scale = HEAVY['learning_rate'] * (0.3 if ORDER[k] < 0 else 1.0)
      theta = P.add((1.0, theta), (-scale, velocity))
    P.assert_close(state.params, theta, rtol=1e-4, atol=1e-5)

  def test_forget_inputs_are_not_read(self):
    params, forget, retain = setup()
    want = run(params, forget, retain)
    forget['features'] = forget['features'] * jnp.nan
    got = run(params, forget, retain)
    P.assert_identical(got, want)
    self.assertTrue(P.differ(got[0].params, params))

  def test_what_stands_behind_the_mask_changes_nothing(self):
    params, forget, retain = setup()
    want = run(params, forget, retain)
    forget, retain = P.nonsense(forget, -7), P.nonsense(retain, -7)
    keep = retain['mask'][..., None] > 0
    retain['features'] = jnp.where(keep, retain['features'], jnp.nan)
    got = run(params, forget, retain)
    P.assert_identical(got, want)

  def test_vmap_over_hyper_parameters_equals_separate_runs(self):
    params, forget, retain = setup()
    # As they are by default, and then each changed alone.
    values = {
      'noise_learning_rate': np.asarray([0.1, 0.5, 0.1, 0.1]),
      'noise_decay': np.asarray([0.1, 0.1, 1.0, 0.1]),
      'repair_scale': np.asarray([0.5, 0.5, 0.5, 2.0]),
    }
    state = jax.vmap(
      lambda v: set_hyper(loop.init(METHOD, params, jax.random.key(0)), **v)
    )(values)
    state = jax.vmap(lambda s: loop.prepare(METHOD, s, forget, retain))(state)
    many, _ = jax.vmap(lambda s: loop.run(METHOD, s, forget, retain))(state)
    for k in range(4):
      hyper = {name: value[k] for name, value in values.items()}
      one, _ = run(params, forget, retain, **hyper)
      P.assert_close(P.step_of(many.params, k), one.params, rtol=1e-4)
      apart = [np.abs(x[k] - x[0]).max() for x in jax.tree.leaves(many.params)]
      self.assertEqual(max(apart) > 1e-3, k > 0)

  def test_types_are_kept(self):
    params, forget, retain = setup()
    half = {**params, 'kernel': params['kernel'].astype(jnp.bfloat16)}
    state, _ = run(half, forget, retain)
    self.assertEqual(state.params['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(state.params['bias'].dtype, jnp.float32)
    self.assertTrue(P.differ(state.params, half))


class LimitTest(parameterized.TestCase):
  def test_repair_alone_at_the_full_rate_equals_fine_tune(self):
    params, forget, retain = setup()
    forget = {**forget, 'mask': jnp.zeros_like(forget['mask'])}
    got, _ = run(params, forget, retain, repair_scale=1.0)
    want, _ = P.run(fine_tune(P.loss_fn, P.sgd(**HEAVY)), params, None, retain)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  def test_repair_scale_zero_stops_after_the_impair_steps(self):
    params, forget, retain = setup()
    got, _ = run(params, forget, retain, repair_scale=0.0)
    want = start(params, forget, retain)
    for k in range(3):
      pair = P.step_of(forget, k), P.step_of(retain, k)
      want, _ = loop.step(METHOD, want, *pair)
    P.assert_close(got.params, want.params)
    self.assertTrue(P.differ(got.params, params))

  def test_a_step_before_prepare_raises(self):
    params, forget, retain = setup()
    with self.assertRaisesRegex(ValueError, 'unsir needs `loop.prepare`'):
      P.run(METHOD, params, forget, retain)

  @parameterized.parameters(
    ('noise_examples', 0, '>= 1'),
    ('noise_steps', -1, '>= 0'),
    ('noise_learning_rate', -0.1, '>= 0'),
    ('noise_decay', float('nan'), '>= 0'),
    ('repair_scale', -1.0, '>= 0'),
  )
  def test_bounds(self, name, value, bound):
    message = f'{name} must be {bound}, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      unsir(P.loss_fn, P.sgd(), **{name: value})


if __name__ == '__main__':
  absltest.main()
