"""DP-SGD against its NumPy twin, against plain training, and its noise."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.training import loop
from unlearn_jax.training.dp_sgd import dp_descend
from unlearn_jax.training.dp_sgd import noisy_mean_gradient
from unlearn_jax.training.step import descend

INF, NAN = float('inf'), float('nan')
STEPS, WIDTH = 6, 7
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}


@functools.cache
def _make(optimizer, options):
  return dp_descend(P.loss_fn, P.sgd(**dict(optimizer)), **dict(options))


def make(optimizer=None, **options):
  """The same arguments give the same object, compiled once."""
  options = {'max_norm': 1.2, 'noise_multiplier': 0.0} | options
  return _make(tuple((optimizer or {}).items()), tuple(options.items()))


def setup(padding=2):
  return P.make_params(), P.make_batches(2, STEPS, WIDTH, padding)


def twin_gradient(theta, batch, max_norm, size=WIDTH):
  """Sum of clipped gradients over B, row by row in float64."""
  rows = P.real_rows(batch)
  total = jax.tree.map(np.zeros_like, theta)
  for i in range(len(rows['mask'])):
    row = {name: x[i : i + 1] for name, x in rows.items()}
    gradient = P.twin_loss_gradient(theta, row)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
    factor = min(1.0, max_norm / norm)
    total = P.add((1.0, total), (factor / size, gradient))
  return total


def shift(key, batch):
  """Adds the same noise to every feature: an example's on its own."""
  noise = jax.random.normal(key, batch['features'].shape)
  return batch | {'features': batch['features'] + noise}


class StepTest(parameterized.TestCase):
  @parameterized.product(
    optimizer=({'learning_rate': 0.1}, HEAVY),
    expected_batch=(None, 12.5),
    microbatch=(None, 3),
  )
  def test_run_equals_twin(self, optimizer, expected_batch, microbatch):
    params, batches = setup()
    options = {'expected_batch': expected_batch, 'microbatch': microbatch}
    state, metrics = P.run(make(optimizer, **options), params, None, batches)

    def gradient(p, k):
      size = expected_batch or WIDTH
      return twin_gradient(p, P.step_of(batches, k), 1.2, size)

    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)
    rows = P.real_rows(P.step_of(batches, 0))
    loss = P.twin_losses(P.as_float64(params), rows).mean()
    np.testing.assert_allclose(metrics['retain_loss'][0], loss, rtol=1e-6)

  @parameterized.parameters(None, shift)
  def test_without_bound_and_noise_is_plain_training(self, augment_fn):
    params, batches = setup(padding=0)
    options = {'max_norm': INF, 'augment_fn': augment_fn}
    got, metrics = P.run(make(HEAVY, **options), params, None, batches)
    augment_alike = augment_fn and (
      lambda key, batch: augment_fn(jax.random.split(key)[1], batch)
    )
    plain = descend(P.loss_fn, P.sgd(**HEAVY), augment_alike)
    want, same = P.run(plain, params, None, batches)
    P.assert_close(got.params, want.params, rtol=1e-5, atol=1e-6)
    P.assert_close(metrics, same)

  def test_the_forget_set_is_not_read(self):
    params, batches = setup()
    other = P.make_batches(5, STEPS, 3)
    other['features'] = NAN * other['features']
    got, _ = P.run(make(), params, other, batches)
    want, _ = P.run(make(), params, None, batches)
    P.assert_identical(got, want)

  def test_what_stands_behind_the_mask_changes_nothing(self):
    params, batches = setup()
    method = make(noise_multiplier=0.5)
    want, metrics = P.run(method, params, None, batches)
    real = (batches['mask'] > 0)[..., None]
    for value in (NAN, INF):
      wild = jnp.where(real, batches['features'], value)
      got, same = P.run(method, params, None, batches | {'features': wild})
      P.assert_identical(got, want)
      P.assert_identical(same, metrics)

  def test_many_settings_at_once_equal_each_alone(self):
    params, batches = setup()
    keys = jax.random.split(jax.random.key(1), 3)
    sweep = {
      'max_norm': np.asarray([0.5, INF, 2.0], np.float32),
      'noise_multiplier': np.asarray([1.0, 0.0, 0.1], np.float32),
    }

    method = make(HEAVY)

    def start(key, hyper):
      state = loop.init(method, params, key)
      hyper = {name: jnp.array(value) for name, value in hyper.items()}
      return optax.tree_utils.tree_set(state, **hyper)

    def run(state):
      return loop.run(method, state, None, batches)

    many, _ = jax.vmap(run)(jax.vmap(start)(keys, sweep))
    for k in range(3):
      want, _ = run(start(keys[k], P.step_of(sweep, k)))
      P.assert_close(P.step_of(many.params, k), want.params)

  def test_half_precision(self):
    params, batches = setup()
    half = params | {'kernel': params['kernel'].astype(jnp.bfloat16)}
    method = make(HEAVY, noise_multiplier=0.5)
    got = P.run(method, half, None, batches)[0].params
    self.assertEqual(got['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(got['bias'].dtype, jnp.float32)
    self.assertTrue(P.differ(got, half))
    self.assertTrue(np.isfinite(np.float32(got['kernel'])).all())


class PrivacyTest(parameterized.TestCase):
  def gradient(self, params, batch, key=0, **options):
    key = jax.random.key(key) if isinstance(key, int) else key
    options = {'max_norm': 1.2, 'noise_multiplier': 0.0} | options
    return noisy_mean_gradient(params, batch, key, loss_fn=P.loss_fn, **options)

  def test_one_example_moves_the_direction_by_at_most_c_over_b(self):
    params, batches = setup(padding=0)
    batch = P.step_of(batches, 0)
    batch['features'] = 50.0 * batch['features']
    whole = P.as_float64(self.gradient(params, batch, max_norm=0.3))
    moves = []
    for k in range(WIDTH):
      rest = batch | {'mask': batch['mask'].at[k].set(0.0)}
      rest = P.as_float64(self.gradient(params, rest, max_norm=0.3))
      change = P.add((1.0, whole), (-1.0, rest))
      moves.append(np.sqrt(sum(np.square(x).sum() for x in change.values())))
    self.assertLessEqual(max(moves), 0.3 / WIDTH * (1 + 1e-5))
    # With the mean over the examples that are there, it would be more.
    np.testing.assert_allclose(max(moves), 0.3 / WIDTH, rtol=1e-5)

  @parameterized.parameters(
    ({}, 0.5 * 1.2 / WIDTH),
    ({'noise_multiplier': 3.0}, 3.0 * 1.2 / WIDTH),
    ({'max_norm': 0.1}, 0.5 * 0.1 / WIDTH),
    ({'expected_batch': 50.0}, 0.5 * 1.2 / 50),
  )
  def test_noise_is_of_the_size_of_the_sum_and_divided_with_it(
    self, options, std
  ):
    params, batches = setup()
    batch = P.step_of(batches, 0)
    options = {'noise_multiplier': 0.5} | options
    keys = jax.random.split(jax.random.key(3), 4000)
    many = jax.jit(
      jax.vmap(lambda k: self.gradient(params, batch, k, **options))
    )(keys)
    still = self.gradient(params, batch, **options | {'noise_multiplier': 0.0})
    for name, draws in many.items():
      noise = np.asarray(draws) - np.asarray(still[name])[None]
      self.assertLess(np.abs(noise.mean(0)).max(), 5 * std / np.sqrt(4000))
      self.assertLess(np.abs(noise.std(0) / std - 1).max(), 5 / np.sqrt(8000))

  def test_a_batch_without_examples_has_its_noise(self):
    params, batches = setup(padding=WIDTH)
    batch = P.step_of(batches, 0)
    for leaf in jax.tree.leaves(self.gradient(params, batch)):
      np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    noisy = self.gradient(params, batch, noise_multiplier=1.0)
    for leaf in jax.tree.leaves(noisy):
      self.assertTrue((leaf != 0).all())

  def test_one_key_one_result_and_each_step_its_own(self):
    params, batches = setup()
    method = make({'learning_rate': 1.0}, max_norm=0.5, noise_multiplier=1.0)
    first, _ = P.run(method, params, None, batches, key=5)
    P.assert_identical(P.run(method, params, None, batches, key=5)[0], first)
    other, _ = P.run(method, params, None, batches, key=6)
    self.assertTrue(P.differ(first.params, other.params))
    batch, moves = P.step_of(batches, 0), []
    for key in (0, 1):
      keys = jax.random.split(jax.random.fold_in(jax.random.key(9), key))
      moves.append(self.gradient(params, batch, keys[0], noise_multiplier=1.0))
    self.assertTrue(P.differ(*moves))

  def test_noise_and_augmentation_have_keys_of_their_own(self):
    seen = []

    def augment_fn(key, batch):
      seen.append(key)
      return batch

    params, batches = setup()
    batch, key = P.step_of(batches, 0), jax.random.key(4)
    method = dp_descend(
      P.loss_fn,
      optax.sgd(1.0),
      max_norm=0.5,
      noise_multiplier=1.0,
      augment_fn=augment_fn,
    )
    state = method.init(params, key)
    moved, _, _ = method.update(params, state, None, batch, key)
    options = {'max_norm': 0.5, 'noise_multiplier': 1.0}
    wrong = self.gradient(params, batch, seen[0], **options)
    step = jax.tree.map(jnp.subtract, params, moved)
    self.assertGreater(np.abs(wrong['kernel'] - step['kernel']).max(), 1e-3)


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('max_norm', -0.1, '>= 0, got -0.1'),
    ('max_norm', NAN, '>= 0, got nan'),
    ('noise_multiplier', -0.1, '>= 0, got -0.1'),
    ('noise_multiplier', NAN, '>= 0, got nan'),
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
      make(max_norm=INF, noise_multiplier=0.1)


if __name__ == '__main__':
  absltest.main()
