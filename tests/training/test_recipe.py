"""The recipe: its optimizer against NumPy, and its augmentation."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.training.recipe import Recipe

STEPS = 100


def twin_rates(recipe, total_steps, steps):
  """Learning rate of each step: linear warm-up, then half a cosine."""
  warmup = max(recipe.warmup_fraction * total_steps, 1.0)
  rates = []
  for k in range(steps):
    if k < warmup:
      rate = min((k + 1) / warmup, 1.0)
    else:
      done = min((k - warmup) / max(total_steps - warmup, 1.0), 1.0)
      rate = 0.5 * (1.0 + np.cos(np.pi * done))
    rates.append(recipe.learning_rate * rate)
  return np.asarray(rates)


@functools.partial(jax.jit, static_argnames='recipe')
def follow(recipe, params, gradients, total_steps):
  """Returns the parameters after each step, and the steps, [steps, ...]."""
  tx = recipe.optimizer()
  state = optax.tree_utils.tree_set(tx.init(params), total_steps=total_steps)

  def body(carry, gradient):
    params, state = carry
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), (params, updates)

  return jax.lax.scan(body, (params, state), gradients)[1]


def rates_of(recipe, total_steps, steps):
  """Reads the learning rates: Adam's step on a constant gradient is one."""
  _, updates = follow(
    recipe, jnp.zeros(()), jnp.full(steps, 0.5), jnp.float32(total_steps)
  )
  return -np.float64(updates)


class ScheduleTest(parameterized.TestCase):
  @parameterized.product(
    warmup_fraction=(0.0, 0.1, 0.5, 1.0), total_steps=(STEPS, 40)
  )
  def test_equals_closed_form(self, warmup_fraction, total_steps):
    recipe = Recipe(
      learning_rate=0.3, warmup_fraction=warmup_fraction, weight_decay=0.0
    )
    got = rates_of(recipe, total_steps, STEPS)
    want = twin_rates(recipe, total_steps, STEPS)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)

  def test_warm_up_peak_and_end(self):
    recipe = Recipe(learning_rate=0.3, warmup_fraction=0.1, weight_decay=0.0)
    got = rates_of(recipe, STEPS, STEPS)
    np.testing.assert_allclose(got[0], 0.3 / 10, rtol=1e-4)
    np.testing.assert_allclose(got[9:11], [0.3, 0.3], rtol=1e-4)
    self.assertTrue((np.diff(got[:10]) > 0).all())
    self.assertTrue((np.diff(got[10:]) < 0).all())
    self.assertLess(got[-1], 1e-3 * 0.3)
    self.assertGreater(got[-1], 0.0)

  def test_past_its_end_the_rate_stays_zero(self):
    recipe = Recipe(learning_rate=0.3, weight_decay=0.0)
    got = rates_of(recipe, 40, STEPS)
    np.testing.assert_array_equal(got[41:], 0.0)

  def test_total_steps_is_an_array_in_the_state(self):
    tx = Recipe().optimizer()
    state = tx.init(jnp.zeros(3))
    self.assertEqual(optax.tree_utils.tree_get(state, 'total_steps'), 1.0)
    size = follow._cache_size()
    recipe = Recipe(learning_rate=0.31)
    for total in (10, 20, 30):
      rates_of(recipe, total, 5)
    self.assertEqual(follow._cache_size(), size + 1)

  @parameterized.parameters((100, 60), (101, 120), (1, 60), (0, 0))
  def test_steps(self, num_examples, want):
    self.assertEqual(Recipe(epochs=60).steps(num_examples), want)


class OptimizerTest(parameterized.TestCase):
  def test_equals_twin(self):
    recipe = Recipe(learning_rate=0.05, weight_decay=0.2, clip_norm=1.5)
    rng = np.random.default_rng(0)
    shapes = {'kernel': (3, 2), 'bias': (2,), 'conv': (2, 1, 3)}
    theta = {n: rng.normal(size=s) for n, s in shapes.items()}
    # Norms on both sides of the bound.
    scale = np.linspace(0.05, 0.7, 20)
    path = {n: rng.normal(size=(20, *s)) for n, s in shapes.items()}
    path = {
      n: g * scale.reshape(-1, *[1] * (g.ndim - 1)) for n, g in path.items()
    }
    as_float32 = functools.partial(jax.tree.map, jnp.float32)
    got, _ = follow(
      recipe, as_float32(theta), as_float32(path), jnp.float32(20)
    )
    m = {n: np.zeros(s) for n, s in shapes.items()}
    v = {n: np.zeros(s) for n, s in shapes.items()}
    clipped = 0
    for k, rate in enumerate(twin_rates(recipe, 20, 20)):
      norm = np.sqrt(sum((g[k] ** 2).sum() for g in path.values()))
      clipped += norm > 1.5
      for n, g in path.items():
        g = g[k] * min(1.0, 1.5 / norm)
        m[n] = 0.9 * m[n] + 0.1 * g
        v[n] = 0.999 * v[n] + 0.001 * g**2
        step = m[n] / (1 - 0.9 ** (k + 1))
        step = step / (np.sqrt(v[n] / (1 - 0.999 ** (k + 1))) + 1e-8)
        decay = 0.0 if n == 'bias' else 0.2
        theta[n] = theta[n] - rate * (step + decay * theta[n])
        np.testing.assert_allclose(got[n][k], theta[n], rtol=1e-4, atol=1e-5)
    self.assertBetween(clipped, 5, 15)

  def test_weight_decay_moves_kernels_alone(self):
    recipe = Recipe(learning_rate=0.05, weight_decay=0.2, warmup_fraction=0.0)
    params = {
      'kernel': jnp.ones((3, 2)),
      'bias': jnp.ones(2),
      's': jnp.ones(()),
    }
    zero = jax.tree.map(lambda x: jnp.zeros((1, *x.shape)), params)
    got, _ = follow(recipe, params, zero, jnp.float32(STEPS))
    want = np.full((1, 3, 2), 1.0 - 0.05 * 0.2)
    np.testing.assert_allclose(got['kernel'], want, rtol=1e-6)
    np.testing.assert_array_equal(got['bias'], np.ones((1, 2)))
    np.testing.assert_array_equal(got['s'], np.ones(1))


class AugmentTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.batch = {
      'features': jnp.asarray(rng.normal(size=(16, 50, 12)), jnp.float16),
      'label': jnp.arange(16),
      'mask': jnp.ones(16),
    }

  def augment(self, key=0, hop_ms=10.0, **options):
    fun = jax.jit(Recipe(**options).augment_fn(hop_ms))
    return fun(jax.random.key(key), self.batch)

  def test_keeps_shapes_and_everything_but_the_features(self):
    got = self.augment()
    self.assertEqual(set(got), set(self.batch))
    self.assertEqual(got['features'].shape, (16, 50, 12))
    self.assertEqual(got['features'].dtype, jnp.float32)
    for name in ('label', 'mask'):
      np.testing.assert_array_equal(got[name], self.batch[name])
      self.assertEqual(got[name].dtype, self.batch[name].dtype)

  def test_depends_on_the_key_alone(self):
    one, again, other = (self.augment(key)['features'] for key in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    changed = (one != other).any(axis=(1, 2))
    self.assertGreater(changed.mean(), 0.8)

  def test_zero_widths_are_the_identity(self):
    got = self.augment(max_shift_ms=0, time_mask_ms=0, frequency_mask_bins=0)
    want = np.float32(self.batch['features'])
    np.testing.assert_array_equal(got['features'], want)

  @parameterized.parameters((10.0, 2), (5.0, 4))
  def test_shift_is_in_milliseconds(self, hop_ms, frames):
    got = self.augment(
      hop_ms=hop_ms, max_shift_ms=20, time_mask_ms=0, frequency_mask_bins=0
    )
    x = np.float32(self.batch['features'])
    shifts = set()
    for before, after in zip(x, np.asarray(got['features']), strict=True):
      place = np.arange(50)
      fits = [
        s
        for s in range(-frames, frames + 1)
        if (before[np.clip(place - s, 0, 49)] == after).all()
      ]
      self.assertLen(fits, 1)
      shifts |= set(fits)
    self.assertGreater(len(shifts), 2)
    self.assertGreater(max(map(abs, shifts)), frames - 1)

  def test_one_time_mask_of_bounded_width(self):
    got = self.augment(max_shift_ms=0, time_mask_ms=80, frequency_mask_bins=0)
    moved = np.float32(self.batch['features']) != got['features']
    frames = moved.any(axis=2)
    np.testing.assert_array_equal(moved.all(axis=2), frames)
    self.check_stripes(frames, 8)

  def test_one_frequency_mask_of_bounded_width(self):
    got = self.augment(max_shift_ms=0, time_mask_ms=0, frequency_mask_bins=5)
    moved = np.float32(self.batch['features']) != got['features']
    bins = moved.any(axis=1)
    np.testing.assert_array_equal(moved.all(axis=1), bins)
    self.check_stripes(bins, 5)

  def check_stripes(self, masked, width):
    """Each row is one run of at most `width`; over the batch it is reached."""
    edges = np.diff(np.pad(masked.astype(int), ((0, 0), (1, 1))), axis=1)
    self.assertLessEqual((edges == 1).sum(axis=1).max(), 1)
    self.assertBetween(masked.sum(axis=1).max(), width - 1, width)


class WaveformTest(absltest.TestCase):
  def test_shift_is_in_milliseconds(self):
    augment = Recipe(max_shift_ms=10.0).augment_waveform_fn(1_000)
    waveform = jnp.tile(jnp.arange(1, 101, dtype=jnp.int16), (50, 1))
    got = augment(jax.random.key(0), {'waveform': waveform})['waveform']
    first = np.where(got[:, 0] > 0, got[:, 0] - 1, -(got == 0).sum(1))
    self.assertGreater(len(set(first.tolist())), 5)
    self.assertLessEqual(abs(first).max(), 10)

  def test_padded_recordings_stay(self):
    augment = Recipe().augment_waveform_fn(16_000)
    batch = {
      'waveform': jnp.ones((2, 4_000), jnp.int16),
      'samples': jnp.array([4_000, 100], jnp.int32),
    }
    got = augment(jax.random.key(0), batch)
    np.testing.assert_array_equal(got['waveform'], batch['waveform'])


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('epochs', 0, '>= 1'),
    ('batch_size', 0, '>= 1'),
    ('learning_rate', -0.1, '>= 0'),
    ('learning_rate', float('nan'), '>= 0'),
    ('warmup_fraction', -0.1, '>= 0'),
    ('warmup_fraction', 1.1, r'in \[0, 1\]'),
    ('weight_decay', -0.1, '>= 0'),
    ('clip_norm', 0.0, '> 0'),
    ('max_shift_ms', -1.0, '>= 0'),
    ('time_mask_ms', -1.0, '>= 0'),
    ('frequency_mask_bins', -1, '>= 0'),
    ('dp_max_norm', -1.0, '>= 0'),
    ('dp_max_norm', float('nan'), '>= 0'),
    ('dp_noise_multiplier', -1.0, '>= 0'),
    ('dp_noise_multiplier', 1.0, '0 without a finite dp_max_norm'),
  )
  def test_field(self, name, value, bound):
    message = f'{name} must be {bound}, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      Recipe(**{name: value})

  def test_noise_needs_a_finite_bound(self):
    Recipe(dp_max_norm=1.0, dp_noise_multiplier=1.0)
    with self.assertRaisesRegex(ValueError, '0 without a finite dp_max_norm'):
      Recipe(dp_max_norm=float('inf'), dp_noise_multiplier=1.0)


if __name__ == '__main__':
  absltest.main()
