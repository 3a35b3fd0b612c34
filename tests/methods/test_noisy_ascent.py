"""Noisy ascent against its NumPy twin, its limits and its noise."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.noisy_ascent import noisy_ascent
from unlearn_jax.methods.noisy_ascent import noisy_ascent_direction
from unlearn_jax.training import loop

INF, NAN = float('inf'), float('nan')
STEPS, WIDTH = 6, 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
CLIPPED = {'max_norm': 1.2, 'noise': 0.0, 'retain_weight': 0.3}

_direction = jax.jit(
  functools.partial(noisy_ascent_direction, loss_fn=P.loss_fn),
  static_argnames=('expected_batch', 'microbatch'),
)


def setup(padding=1):
  forget = P.make_batches(1, STEPS, WIDTH, padding)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


@functools.cache
def _make(optimizer, options):
  return noisy_ascent(P.loss_fn, P.sgd(**dict(optimizer)), **dict(options))


def make(optimizer=None, **options):
  """The same arguments give the same object, compiled once."""
  return _make(tuple((optimizer or {}).items()), tuple(options.items()))


def direction(params, forget, retain, key=0, **options):
  options = CLIPPED | options
  return _direction(params, forget, retain, jax.random.key(key), **options)


def twin_direction(
  theta, forget, retain, max_norm, retain_weight, size=WIDTH, noise=0.0
):
  """The direction of descent without noise, row by row in float64."""
  assert noise == 0.0
  rows = P.real_rows(forget)
  total = jax.tree.map(np.zeros_like, theta)
  for i in range(len(rows['mask'])):
    row = {name: x[i : i + 1] for name, x in rows.items()}
    gradient = P.twin_loss_gradient(theta, row)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
    factor = min(1.0, max_norm / norm)
    total = P.add((1.0, total), (-factor / size, gradient))
  if retain is None:
    return total
  return P.add(
    (1.0, total), (retain_weight, P.twin_loss_gradient(theta, retain))
  )


class DirectionTest(parameterized.TestCase):
  @parameterized.product(
    max_norm=(0.0, 1.2, INF), microbatch=(None, 2), retains=(False, True)
  )
  def test_equals_twin(self, max_norm, microbatch, retains):
    params, forget, retain = setup()
    forget = P.step_of(forget, 0)
    retain = P.step_of(retain, 0) if retains else None
    got, metrics = direction(
      params, forget, retain, max_norm=max_norm, microbatch=microbatch
    )
    theta = P.as_float64(params)
    want = twin_direction(theta, forget, retain, max_norm, 0.3)
    P.assert_close(got, want)
    for name, batch in (('forget_loss', forget), ('retain_loss', retain)):
      if batch is None:
        self.assertNotIn(name, metrics)
        continue
      mean = P.twin_losses(theta, P.real_rows(batch)).mean()
      np.testing.assert_allclose(metrics[name], mean, rtol=1e-6)

  def test_it_is_not_the_clipped_gradient_of_the_batch(self):
    params, forget, _ = setup(padding=0)
    forget = P.step_of(forget, 0)
    got, _ = direction(params, forget, None, max_norm=0.1)
    theta = P.as_float64(params)
    mean = P.twin_loss_gradient(theta, forget)
    norm = np.sqrt(sum(np.square(g).sum() for g in mean.values()))
    wrong = P.add((-min(1.0, 0.1 / norm), mean))
    want = twin_direction(theta, forget, None, 0.1, 0.0)
    P.assert_close(got, want)
    self.assertGreater(np.abs(wrong['kernel'] - want['kernel']).max(), 0.01)

  def test_divides_by_the_width_not_by_the_examples_that_are_there(self):
    params, forget, _ = setup(padding=0)
    batch = P.step_of(forget, 0)
    alone = batch | {'mask': jnp.zeros(WIDTH).at[2].set(1.0)}
    theta = P.as_float64(params)
    for size in (None, 20.0):
      got, _ = direction(params, alone, None, expected_batch=size)
      want = twin_direction(theta, alone, None, 1.2, 0.0, size or WIDTH)
      P.assert_close(got, want)

  def test_padding_adds_nothing(self):
    params, forget, retain = setup()
    batch, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    options = {'expected_batch': 4.0, 'noise': 0.5}
    want = direction(params, batch, retain, **options)
    wide = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), batch)
    P.assert_close(direction(params, wide, retain, **options), want)
    for value in (NAN, INF):
      wild = (
        b
        | {'features': jnp.where(b['mask'][:, None] > 0, b['features'], value)}
        for b in (batch, retain)
      )
      P.assert_identical(direction(params, *wild, **options), want)

  def test_zero_gradients_stay_zero(self):
    params, forget, _ = setup()
    batch = P.step_of(forget, 0)
    got, _ = noisy_ascent_direction(
      params,
      batch,
      None,
      jax.random.key(0),
      loss_fn=lambda p, b: 0.0 * P.loss_fn(p, b),
      **CLIPPED,
    )
    for leaf in jax.tree.leaves(got):
      np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


class NoiseTest(parameterized.TestCase):
  def draws(self, keys=4000, **options):
    """Directions of many keys less that without noise, [keys, entries]."""
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    many = jax.vmap(
      lambda k: _direction(
        params, forget, retain, k, **{**CLIPPED, 'noise': 0.5, **options}
      )[0]
    )(jax.random.split(jax.random.key(3), keys))
    options.pop('noise', None)
    still, _ = direction(params, forget, retain, **options)
    parts = zip(jax.tree.leaves(many), jax.tree.leaves(still), strict=True)
    return np.concatenate(
      [np.reshape(a - np.asarray(b)[None], (keys, -1)) for a, b in parts], 1
    )

  @parameterized.parameters(
    ({}, 0.5 * 1.2 / WIDTH),
    ({'noise': 2.0}, 2.0 * 1.2 / WIDTH),
    ({'max_norm': 0.1}, 0.5 * 0.1 / WIDTH),
    ({'expected_batch': 50.0}, 0.5 * 1.2 / 50),
  )
  def test_is_of_the_size_of_the_sum_and_divided_with_it(self, options, std):
    draws = self.draws(**options)
    self.assertLess(np.abs(draws.mean(0)).max(), 5 * std / np.sqrt(4000))
    self.assertLess(np.abs(draws.std(0) / std - 1).max(), 5 / np.sqrt(8000))
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    self.assertLess(np.abs(correlation).max(), 6 / np.sqrt(4000))

  def test_one_key_one_result_and_each_step_its_own(self):
    params, forget, _ = setup()
    same = P.steps_of(forget, [0, 0])
    method = make({'learning_rate': 1.0}, max_norm=0.5, noise=1.0)
    first, _ = P.run(method, params, same, None, key=5)
    P.assert_identical(P.run(method, params, same, None, key=5)[0], first)
    other, _ = P.run(method, params, same, None, key=6)
    self.assertTrue(P.differ(first.params, other.params))

  def test_none_without_a_bound_is_not_nan(self):
    params, forget, retain = setup()
    got, _ = direction(
      params, P.step_of(forget, 0), P.step_of(retain, 0), max_norm=INF
    )
    for leaf in jax.tree.leaves(got):
      self.assertTrue(np.isfinite(leaf).all())


class RunTest(parameterized.TestCase):
  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_equals_twin(self, **optimizer):
    params, forget, retain = setup()
    method = make(optimizer, max_norm=1.2, retain_weight=0.3)

    def gradient(p, k):
      pair = P.step_of(forget, k), P.step_of(retain, k)
      return twin_direction(p, *pair, 1.2, 0.3)

    state, _ = P.run(method, params, forget, retain)
    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)

  def test_without_bound_and_noise_is_gradient_ascent(self):
    params, forget, _ = setup(padding=0)
    method = make(HEAVY, max_norm=INF)
    got, metrics = P.run(method, params, forget, None)
    plain = gradient_ascent(P.loss_fn, P.sgd(**HEAVY))
    want, same = P.run(plain, params, forget, None)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-6)
    P.assert_close(metrics['forget_loss'], same['forget_loss'])

  def test_ascends(self):
    params, forget, _ = setup()
    forget = P.steps_of(forget, 20 * [0])
    _, metrics = P.run(make(max_norm=1.0), params, forget, None)
    loss = np.asarray(metrics['forget_loss'])
    self.assertTrue((np.diff(loss) > 0).all())

  def test_retain_weight_zero_is_forget_alone(self):
    params, forget, retain = setup()
    method = make(HEAVY, noise=0.5)
    got, _ = P.run(method, params, forget, retain)
    want, _ = P.run(method, params, forget, None)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  def test_many_settings_at_once_equal_each_alone(self):
    params, forget, retain = setup()
    method = make(HEAVY)
    keys = jax.random.split(jax.random.key(1), 3)
    sweep = {
      'max_norm': np.asarray([0.5, INF, 2.0], np.float32),
      'noise': np.asarray([1.0, 0.0, 0.1], np.float32),
      'retain_weight': np.asarray([0.0, 0.5, 1.0], np.float32),
    }

    def start(key, hyper):
      state = loop.init(method, params, key)
      hyper = {name: jnp.array(value) for name, value in hyper.items()}
      return optax.tree_utils.tree_set(state, **hyper)

    def run(state):
      return loop.run(method, state, forget, retain)

    many, metrics = jax.vmap(run)(jax.vmap(start)(keys, sweep))
    for k in range(3):
      want, same = run(start(keys[k], P.step_of(sweep, k)))
      P.assert_close(P.step_of(many.params, k), want.params)
      P.assert_close(P.step_of(metrics, k), same)

  def test_half_precision(self):
    params, forget, retain = setup()
    half = params | {'kernel': params['kernel'].astype(jnp.bfloat16)}
    method = make(HEAVY, noise=0.5, retain_weight=0.3)
    got = P.run(method, half, forget, retain)[0].params
    self.assertEqual(got['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(got['bias'].dtype, jnp.float32)
    self.assertTrue(P.differ(got, half))
    self.assertTrue(np.isfinite(np.float32(got['kernel'])).all())


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('max_norm', -0.1, '>= 0, got -0.1'),
    ('max_norm', NAN, '>= 0, got nan'),
    ('noise', -0.1, '>= 0, got -0.1'),
    ('noise', NAN, '>= 0, got nan'),
    ('retain_weight', -0.1, '>= 0, got -0.1'),
    ('expected_batch', 0.0, '>= 1, got 0.0'),
    ('expected_batch', NAN, '>= 1, got nan'),
    ('microbatch', 0, '>= 1, got 0'),
  )
  def test_option(self, name, value, bound):
    with self.assertRaisesRegex(ValueError, f'{name} must be {bound}'):
      make(**{name: value})

  def test_noise_without_a_bound(self):
    message = 'max_norm must be finite with noise, got inf'
    with self.assertRaisesRegex(ValueError, message):
      make(max_norm=INF, noise=0.1)


if __name__ == '__main__':
  absltest.main()
