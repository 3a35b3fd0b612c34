"""MSG: the draw, the gradient, what starts anew, and the scaled steps."""

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
from unlearn_jax.methods.msg import draw_retain
from unlearn_jax.methods.msg import mean_gradient
from unlearn_jax.methods.msg import msg
from unlearn_jax.methods.msg import smallest
from unlearn_jax.training import loop

HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
FORGET, RETAIN = 6, 30  # Examples.
STEPS = 5
METHOD = msg(P.loss_fn, P.sgd(**HEAVY), P.init_fn)

_draw = jax.jit(draw_retain)
_mean_gradient = jax.jit(functools.partial(mean_gradient, loss_fn=P.loss_fn))


def setup():
  forget = P.make_batches(1, 2, 5, padding=2)
  retain = P.make_batches(2, STEPS, 8, padding=2)
  return P.make_params(), forget, retain


def start(params, key=0, **hyper):
  state = loop.init(METHOD, params, jax.random.key(key))
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  return optax.tree_utils.tree_set(state, **arrays) if arrays else state


def prepared(params, forget, retain, examples=None, **start_with):
  state = start(params, **start_with)
  return loop.prepare(METHOD, state, forget, retain, examples)


def rows_of(stacked):
  """All real rows of stacked batches in one, sorted by id."""
  rows = P.real_rows(jax.tree.map(np.concatenate, dict(stacked)))
  order = np.argsort(rows['id'])
  return {name: x[order] for name, x in rows.items()}


def recut(stacked, size):
  """The same rows in another order, in batches of another size."""
  rows = rows_of(stacked)
  order = np.random.default_rng(0).permutation(len(rows['id']))
  pad = -len(order) % size
  mixed = {
    name: np.concatenate([x[order], np.full_like(x[:pad], 3)])
    for name, x in rows.items()
  }
  mixed['mask'][len(order) :] = 0.0
  return jax.tree.map(
    lambda x: jnp.asarray(x.reshape(-1, size, *x.shape[1:])), mixed
  )


def twin_difference(params, forget, drawn):
  theta = P.as_float64(params)
  return P.add(
    (1.0, P.twin_loss_gradient(theta, rows_of(drawn))),
    (-1.0, P.twin_loss_gradient(theta, rows_of(forget))),
  )


def twin_mask(difference, fraction):
  size = np.abs(difference['kernel']).ravel()
  mask = np.zeros(size.size, bool)
  mask[np.argsort(size)[: round(fraction * size.size)]] = True
  kernel = mask.reshape(difference['kernel'].shape)
  return {'kernel': kernel, 'bias': np.zeros(P.CLASSES, bool)}


class DrawTest(parameterized.TestCase):
  def test_draws_as_many_retain_examples_as_there_are_forget_examples(self):
    _, forget, retain = setup()
    drawn = _draw(jax.random.key(0), forget, retain)
    self.assertEqual(drawn['mask'].shape, forget['mask'].shape)
    rows, everything = rows_of(drawn), rows_of(retain)
    self.assertLen(set(rows['id']), FORGET)
    place = np.searchsorted(everything['id'], rows['id'])
    P.assert_identical(rows, {name: x[place] for name, x in everything.items()})

  @parameterized.parameters(1, 4)
  def test_does_not_depend_on_the_batches(self, size):
    _, forget, retain = setup()
    want = rows_of(_draw(jax.random.key(0), forget, retain))
    drawn = _draw(jax.random.key(0), recut(forget, 3), recut(retain, size))
    P.assert_identical(rows_of(drawn), want)

  def test_index_batches_draw_the_same_examples(self):
    _, forget, retain = setup()
    drawn = _draw(jax.random.key(0), forget, retain)
    ids = rows_of(retain)['id']
    index = batches.one_pass(ids, 7, np.random.default_rng(0))
    got = _draw(jax.random.key(0), forget, index)
    self.assertIsInstance(got, batches.IndexBatches)
    rows = np.asarray(got.rows)[np.asarray(got.mask) > 0]
    np.testing.assert_array_equal(np.sort(rows), rows_of(drawn)['id'])

  def test_every_example_is_as_likely(self):
    _, forget, retain = setup()
    drawn = jax.vmap(lambda k: _draw(k, forget, retain))(
      jax.random.split(jax.random.key(0), 2000)
    )
    ids = np.asarray(drawn['id'])[np.asarray(drawn['mask']) > 0]
    counts = np.unique(ids, return_counts=True)[1]
    self.assertLen(counts, RETAIN)
    expected = 2000 * FORGET / RETAIN
    deviation = np.sqrt(expected * (1 - FORGET / RETAIN))
    self.assertLess(np.abs(counts - expected).max(), 4.5 * deviation)

  def test_a_retain_set_smaller_than_the_forget_set_is_taken_whole(self):
    _, forget, retain = setup()
    few = P.steps_of(retain, [0, -1, -1, -1, -1])
    few['mask'] = few['mask'].at[:, 4:].set(0.0)
    drawn = _draw(jax.random.key(0), forget, few)
    P.assert_identical(rows_of(drawn), rows_of(few))


class GradientTest(parameterized.TestCase):
  @parameterized.parameters(2, 15)
  def test_equals_twin_for_any_batch_size(self, size):
    params, _, retain = setup()
    want = P.twin_loss_gradient(P.as_float64(params), rows_of(retain))
    P.assert_close(_mean_gradient(params, recut(retain, size), None), want)

  def test_sums_of_half_precision_are_in_single(self):
    # A sum of 1000 ones stops at 256 in bfloat16.
    params = {'x': jnp.zeros((), jnp.bfloat16)}
    batch = {'mask': jnp.ones((1000, 1))}
    got = mean_gradient(
      params, batch, None, loss_fn=lambda p, b: p['x'] * b['mask']
    )
    np.testing.assert_allclose(got['x'], 1.0, rtol=1e-6)


class SmallestTest(parameterized.TestCase):
  def test_takes_the_share_inside_each_kernel(self):
    gradient = {
      'large': jnp.asarray([[9.0, -8.0], [7.0, 6.0]]),
      'small': jnp.asarray([[[0.1, 0.4, -0.3, 0.2]]]),
      'bias': jnp.zeros(4),
      'gain': jnp.zeros(()),
    }
    mask = smallest(gradient, 0.5)
    np.testing.assert_array_equal(mask['large'], [[False, False], [True, True]])
    np.testing.assert_array_equal(mask['small'], [[[True, False, False, True]]])
    self.assertFalse(mask['bias'].any())
    self.assertFalse(mask['gain'])

  def test_ties_do_not_enlarge_the_share(self):
    mask = smallest({'k': jnp.zeros((5, 4))}, 0.3)
    self.assertEqual(mask['k'].sum(), 6)

  @parameterized.parameters(0.0, 1.0)
  def test_extreme_fractions_of_gradients_that_are_not_finite(self, fraction):
    gradient = {'k': jnp.asarray([[1.0, jnp.nan], [jnp.inf, 0.0]])}
    mask = smallest(gradient, fraction)
    self.assertTrue((mask['k'] == bool(fraction)).all())


class PrepareTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.3, 0.6, 1.0)
  def test_edit_equals_twin(self, fraction):
    params, forget, retain = setup()
    state = prepared(params, forget, retain, key=4, fraction=fraction)
    # The keys that the run made its draw and its fresh weights from.
    draw_key, fresh_key = jax.random.split(state.key)
    drawn = _draw(draw_key, forget, retain)
    mask = twin_mask(twin_difference(params, forget, drawn), fraction)
    P.assert_identical(state.method_state.mask, mask)
    fresh = P.init_fn(fresh_key)
    want = jax.tree.map(jnp.where, mask, fresh, params)
    P.assert_identical(state.params, want)
    P.assert_identical(state.params['bias'], params['bias'])
    self.assertTrue(P.differ(fresh['bias'], params['bias']))

  def test_does_not_depend_on_the_batches(self):
    params, forget, retain = setup()
    want = prepared(params, forget, retain)
    got = prepared(params, recut(forget, 3), recut(retain, 4))
    P.assert_identical(got, want)

  def test_index_batches_give_the_same(self):
    params = P.make_params()
    examples = P.make_examples(FORGET + RETAIN)
    rng = np.random.default_rng(0)
    forget = batches.one_pass(np.arange(FORGET), 4, rng)
    retain = batches.one_pass(FORGET + np.arange(RETAIN), 7, rng)
    got = prepared(params, forget, retain, examples=examples)
    stacked = (
      jax.vmap(functools.partial(batches.take, examples))(b)
      for b in (forget, retain)
    )
    P.assert_identical(got, prepared(params, *stacked))
    self.assertTrue(P.differ(got.params, params))

  def test_behind_the_mask_nothing_counts(self):
    params, forget, retain = setup()
    want = prepared(params, forget, retain), run(params, forget, retain)
    other = [P.nonsense(stacked, -7) for stacked in (forget, retain)]
    for stacked in other:
      stacked['features'] /= stacked['mask'][..., None]  # Infinite, then.
    got = prepared(params, *other), run(params, *other)
    P.assert_identical(got, want)

  def test_with_nothing_to_forget_nothing_starts_anew(self):
    params, forget, retain = setup()
    none = {**forget, 'mask': jnp.zeros_like(forget['mask'])}
    state = prepared(params, none, retain)
    P.assert_identical(state.params, params)
    self.assertFalse(state.method_state.mask['kernel'].any())


def run(params, forget, retain, **hyper):
  state = prepared(params, forget, retain, **hyper)
  return loop.run(METHOD, state, None, retain)[0]


class RunTest(parameterized.TestCase):
  def test_run_equals_twin(self):
    # The share multiplies the update: momentum and decay run at full size.
    params, forget, retain = setup()
    before = prepared(params, forget, retain, fraction=0.4)
    mask = P.as_float64(before.method_state.mask)
    theta = P.as_float64(before.params)
    velocity = jax.tree.map(np.zeros_like, theta)
    for k in range(STEPS):
      gradient = P.twin_loss_gradient(theta, P.step_of(retain, k))
      decayed = P.add((1.0, gradient), (HEAVY['weight_decay'], theta))
      velocity = P.add((HEAVY['momentum'], velocity), (1.0, decayed))
      for name, x in theta.items():
        share = mask[name] + 0.1 * (1 - mask[name])
        theta[name] = x - HEAVY['learning_rate'] * share * velocity[name]
    state = run(params, forget, retain, fraction=0.4)
    P.assert_close(state.params, theta)

  def test_fraction_zero_and_scale_one_equals_fine_tune(self):
    params, forget, retain = setup()
    got = run(params, forget, retain, fraction=0.0, rest_scale=1.0)
    inner = fine_tune(P.loss_fn, P.sgd(**HEAVY))
    want, _ = P.run(inner, params, None, retain)
    P.assert_identical(got.params, want.params)
    unprepared, _ = P.run(METHOD, params, None, retain)
    P.assert_identical(unprepared.params, want.params)

  def test_scale_zero_moves_only_what_started_anew(self):
    params, forget, retain = setup()
    before = prepared(params, forget, retain, rest_scale=0.0)
    after = run(params, forget, retain, rest_scale=0.0)
    moved = jax.tree.map(jnp.not_equal, after.params, before.params)
    P.assert_identical(moved, after.method_state.mask)
    self.assertEqual(moved['kernel'].sum(), round(0.3 * 12))

  def test_vmap_over_hyper_parameters_and_keys(self):
    params, forget, retain = setup()
    sweep = {
      'key': np.arange(3),
      'fraction': np.float32([0.0, 0.25, 0.75]),
      'rest_scale': np.float32([0.5, 0.0, 1.0]),
    }
    states = jax.vmap(lambda h: start(params, **h))(sweep)
    states = jax.vmap(lambda s: loop.prepare(METHOD, s, forget, retain))(states)
    many, _ = jax.vmap(lambda s: loop.run(METHOD, s, None, retain))(states)
    for k in range(3):
      one = run(params, forget, retain, **P.step_of(sweep, k))
      P.assert_close(P.step_of(many.params, k), one.params)

  def test_types_are_kept(self):
    params, forget, retain = setup()
    half = {**params, 'kernel': params['kernel'].astype(jnp.bfloat16)}
    state = run(half, forget, retain)
    self.assertEqual(state.params['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(state.params['bias'].dtype, jnp.float32)
    self.assertTrue(P.differ(state.params, half))

  @parameterized.parameters(
    ({'fraction': 1.5}, r'fraction must be in \[0, 1\], got 1.5'),
    ({'rest_scale': -0.1}, r'rest_scale must be in \[0, 1\], got -0.1'),
    ({'fraction': float('nan')}, r'fraction must be in \[0, 1\], got nan'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      msg(P.loss_fn, P.sgd(), P.init_fn, **options)


if __name__ == '__main__':
  absltest.main()
