"""Fisher forgetting: its noise against the NumPy twin, its limits."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.fisher_forgetting import add_noise
from unlearn_jax.methods.fisher_forgetting import fisher_forgetting
from unlearn_jax.methods.fisher_forgetting import noise_std
from unlearn_jax.training import loop

INF, NAN = float('inf'), float('nan')
MODES = ('model', 'empirical')
# The cap holds for a part of the entries.
HYPER = {'noise': 1e-4, 'exponent': 0.3, 'offset': 1e-3, 'max_std': 0.11}
KEYS = 10_000


@functools.cache
def _make(options):
  return fisher_forgetting(P.loss_fn, P.predict_fn, **dict(options))


def make(**options):
  """The same options give the same object, compiled once."""
  return _make(tuple({**HYPER, **options}.items()))


def setup():
  return P.make_params(), P.make_batches(2, 4, 7, padding=2)


def edit(method, params, retain, key=0, forget=None, **hyper):
  key = jax.random.key(key) if isinstance(key, int) else key
  state = loop.init(method, params, key)
  hyper = {name: jnp.array(value, jnp.float32) for name, value in hyper.items()}
  state = optax.tree_utils.tree_set(state, **hyper) if hyper else state
  return loop.prepare(method, state, forget, retain)


def twin_std(params, retain, mode, *, noise, exponent, offset, max_std):
  """Standard deviation of every entry in float64, class by class."""
  rows = P.real_rows(jax.tree.map(np.concatenate, dict(retain)))
  p = np.exp(P.twin_log_softmax(P.twin_logits(P.as_float64(params), rows)))
  features = np.float64(rows['features'])
  true = np.eye(P.CLASSES)[rows['label']]
  share = p if mode == 'model' else true
  information = {'kernel': 0.0, 'bias': 0.0}
  for label in range(P.CLASSES):
    slope = p - np.eye(P.CLASSES)[label][None]
    kernel = features[:, :, None] * slope[:, None]
    for name, g in (('kernel', kernel), ('bias', slope)):
      mean = np.tensordot(share[:, label], g**2, (0, 0)) / len(p)
      information[name] += mean
  return {
    name: np.minimum((noise / (f + offset)) ** exponent, max_std)
    for name, f in information.items()
  }


@functools.cache
def over_keys(mode):
  """Parameters after the edit, [keys, ...]."""
  params, retain = setup()
  method = make(mode=mode)
  keys = jax.random.split(jax.random.key(7), KEYS)
  run = jax.jit(jax.vmap(lambda k: edit(method, params, retain, k).params))
  return P.as_float64(run(keys))


class StdTest(parameterized.TestCase):
  def test_equals_closed_form(self):
    got = noise_std({'a': jnp.asarray([0.0, 0.015, 0.159, 1e3])}, **HYPER)
    want = [0.11, 0.11, (1e-4 / 0.16) ** 0.3, (1e-4 / 1000.001) ** 0.3]
    want[2] = min(want[2], 0.11)
    np.testing.assert_allclose(got['a'], want, rtol=1e-5)
    self.assertLess(want[3], 0.05)

  @parameterized.parameters(0.0, 0.25, 2.0)
  def test_no_noise_is_zero_for_every_exponent(self, exponent):
    hyper = {**HYPER, 'noise': 0.0, 'exponent': exponent}
    got = noise_std(jnp.asarray([0.0, 1e-30, 1.0, 1e30]), **hyper)
    np.testing.assert_array_equal(got, np.zeros(4))

  def test_without_a_cap_the_offset_bounds_it(self):
    hyper = {**HYPER, 'max_std': INF}
    got = noise_std(jnp.zeros(1), **hyper)
    np.testing.assert_allclose(got, [(1e-4 / 1e-3) ** 0.3], rtol=1e-5)


@parameterized.parameters(*MODES)
class NoiseTest(parameterized.TestCase):
  def test_mean_over_many_keys_is_the_original(self, mode):
    params, retain = setup()
    theta = P.as_float64(params)
    std = twin_std(params, retain, mode, **HYPER)
    for name, draws in over_keys(mode).items():
      miss = np.abs(draws.mean(0) - theta[name]) / std[name]
      self.assertLess(miss.max(), 5 / np.sqrt(KEYS))

  def test_variance_matches_the_twin(self, mode):
    params, retain = setup()
    std = twin_std(params, retain, mode, **HYPER)
    capped = np.concatenate(
      [(s == HYPER['max_std']).ravel() for s in std.values()]
    )
    self.assertBetween(capped.mean(), 0.05, 0.95)
    for name, draws in over_keys(mode).items():
      ratio = draws.var(0) / std[name] ** 2
      self.assertLess(np.abs(ratio - 1).max(), 5 * np.sqrt(2 / KEYS))

  def test_one_draw_is_the_noise_of_its_key_times_the_twin(self, mode):
    params, retain = setup()
    std = twin_std(params, retain, mode, **HYPER)
    state = edit(make(mode=mode), params, retain)
    ones = jax.tree.map(jnp.ones_like, params)
    key = loop.init(make(mode=mode), params, jax.random.key(0)).key
    zeros = jax.tree.map(jnp.zeros_like, params)
    unit = P.as_float64(add_noise(zeros, ones, key))
    want = {n: np.float64(params[n]) + std[n] * unit[n] for n in std}
    P.assert_close(state.params, want)
    report = state.method_state.report
    flat = np.concatenate([s.ravel() for s in std.values()])
    np.testing.assert_allclose(report['mean_std'], flat.mean(), rtol=1e-5)
    share = (flat == HYPER['max_std']).mean()
    np.testing.assert_allclose(report['capped_share'], share, rtol=1e-5)

  def test_entries_and_leaves_have_noise_of_their_own(self, mode):
    theta = P.as_float64(setup()[0])
    draws = over_keys(mode)
    flat = np.concatenate(
      [(draws[n] - theta[n][None]).reshape(KEYS, -1) for n in draws], axis=1
    )
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    self.assertLess(np.abs(correlation).max(), 6 / np.sqrt(KEYS))

  def test_one_key_one_result(self, mode):
    params, retain = setup()
    one, same, other = (
      edit(make(mode=mode), params, retain, key).params for key in (3, 3, 4)
    )
    P.assert_identical(one, same)
    for name in one:
      self.assertTrue((one[name] != other[name]).all())

  def test_no_noise_is_the_identity(self, mode):
    params, retain = setup()
    params['bias'] = params['bias'].at[0].set(-0.0)
    state = edit(make(mode=mode, noise=0.0), params, retain)
    P.assert_identical(state.params, params)
    self.assertTrue(np.signbit(state.params['bias'][0]))

  def test_size_of_batches_and_padding_change_nothing(self, mode):
    params, retain = setup()
    want = edit(make(mode=mode), params, retain).params
    rows = P.real_rows(jax.tree.map(np.concatenate, dict(retain)))
    for size in (1, 20):
      cut = jax.tree.map(
        lambda x, s=size: jnp.asarray(x.reshape(-1, s, *x.shape[1:])), rows
      )
      self.assertEqual(cut['mask'].size, 20)
      P.assert_close(edit(make(mode=mode), params, cut).params, want)
    small = make(mode=mode, microbatch=3)
    P.assert_close(edit(small, params, retain).params, want)

  def test_what_stands_behind_the_mask_changes_nothing(self, mode):
    params, retain = setup()
    want = edit(make(mode=mode), params, retain)
    real = (retain['mask'] > 0)[..., None]
    for value in (NAN, INF):
      features = jnp.where(real, retain['features'], value)
      wild = retain | {'features': features}
      P.assert_identical(edit(make(mode=mode), params, wild), want)

  def test_the_forget_set_is_not_read(self, mode):
    params, retain = setup()
    forget = P.make_batches(9, 2, 5)
    forget['features'] = NAN * forget['features']
    got = edit(make(mode=mode), params, retain, forget=forget)
    want = edit(make(mode=mode), params, retain)
    P.assert_identical(got, want)

  def test_only_the_empirical_mode_reads_labels(self, mode):
    params, retain = setup()
    want = edit(make(mode=mode), params, retain).params
    other = retain | {'label': (retain['label'] + 1) % P.CLASSES}
    got = edit(make(mode=mode), params, other).params
    self.assertEqual(P.differ(got, want), mode == 'empirical')


class MethodTest(parameterized.TestCase):
  def test_is_not_made_of_batch_mean_squares(self):
    # Two examples whose gradients cancel: of a mean, F would be 0.
    def loss_fn(w, batch):
      return w * batch['x']

    method = fisher_forgetting(
      loss_fn,
      P.predict_fn,
      mode='empirical',
      noise=1.0,
      exponent=1.0,
      max_std=INF,
    )
    stacked = {'x': jnp.asarray([[3.0, -3.0]]), 'mask': jnp.ones((1, 2))}
    state = edit(method, jnp.zeros(()), stacked)
    mean_std = state.method_state.report['mean_std']
    np.testing.assert_allclose(mean_std, 1 / 9, rtol=1e-5)

  def test_many_settings_and_models_at_once_equal_each_alone(self):
    _, retain = setup()
    keys = jax.random.split(jax.random.key(1), 3)
    params = jax.vmap(P.init_fn)(keys)
    sweep = {
      'noise': jnp.asarray([0.0, 1e-4, 1e-2]),
      'exponent': jnp.asarray([0.25, 0.5, 1.0]),
      'offset': jnp.asarray([1e-8, 1e-3, 1.0]),
      'max_std': jnp.asarray([0.1, 0.2, 0.01]),
    }
    method = make()
    many = jax.vmap(lambda p, k, h: edit(method, p, retain, k, **h))(
      params, keys, sweep
    )
    for k in range(3):
      one, hyper = P.step_of(params, k), P.step_of(sweep, k)
      want = edit(method, one, retain, keys[k], **hyper)
      P.assert_close(P.step_of(many.params, k), want.params)

  def test_steps_change_nothing_more(self):
    params, retain = setup()
    state = edit(make(), params, retain)
    want = jax.tree.map(jnp.copy, state.params)
    state, metrics = loop.run(make(), state, None, retain)
    P.assert_identical(state.params, want)
    self.assertEqual(metrics, {})

  def test_information_that_is_not_finite_shows(self):
    params, retain = setup()
    bad = retain | {'features': retain['features'].at[0, 0, 0].set(NAN)}
    got = edit(make(), params, bad).params
    self.assertTrue(np.isnan(got['kernel']).all())

  def test_half_precision(self):
    params, retain = setup()
    half = params | {'kernel': params['kernel'].astype(jnp.bfloat16)}
    got = edit(make(), half, retain).params
    self.assertEqual(got['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(got['bias'].dtype, jnp.float32)
    self.assertTrue(P.differ(got, half))
    self.assertTrue(np.isfinite(np.float32(got['kernel'])).all())


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('noise', -0.1, '>= 0, got -0.1'),
    ('noise', NAN, '>= 0, got nan'),
    ('exponent', -0.1, '>= 0, got -0.1'),
    ('offset', 0.0, '> 0, got 0.0'),
    ('offset', NAN, '> 0, got nan'),
    ('max_std', -1.0, '>= 0, got -1.0'),
    ('microbatch', 0, '>= 1, got 0'),
    ('mode', 'mean', 'one of model, empirical, got mean'),
  )
  def test_option(self, name, value, bound):
    with self.assertRaisesRegex(ValueError, f'{name} must be {bound}'):
      make(**{name: value})


if __name__ == '__main__':
  absltest.main()
