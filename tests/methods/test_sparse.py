"""L1-sparse: the penalty's schedule, both steps, and the limits."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.l1_sparse import is_vector
from unlearn_jax.methods.l1_sparse import l1_sparse
from unlearn_jax.methods.l1_sparse import l1_sparse_direction
from unlearn_jax.methods.l1_sparse import penalty_at
from unlearn_jax.methods.l1_sparse import soft_threshold
from unlearn_jax.training import loop

STEPS = 10
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
A = 0.05

_direction = jax.jit(
  functools.partial(l1_sparse_direction, loss_fn=P.loss_fn),
  static_argnames='exempt',
)


def setup():
  return P.make_params(), P.make_batches(2, STEPS, 7, padding=2)


@functools.cache
def make(**options):
  return l1_sparse(P.loss_fn, P.sgd(**HEAVY), **options)


def run(method, params, retain, **hyper):
  state = loop.init(method, params, jax.random.key(0))
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  if arrays:
    state = optax.tree_utils.tree_set(state, **arrays)
  return loop.run(method, state, None, retain)


def twin_penalty(step, total, free):
  """The formula, in whole numbers of steps."""
  paid = round(total * (1 - free))
  return A * (1 - step / paid) if step < paid else 0.0


class PenaltyTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.2, 0.5, 0.7)
  def test_falls_from_a_to_zero_at_the_free_steps(self, free):
    steps = jnp.arange(STEPS + 1)
    got = jax.vmap(lambda s: penalty_at(s, A, float(STEPS), free))(steps)
    want = [twin_penalty(s, STEPS, free) for s in range(STEPS + 1)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    self.assertEqual(got[0], np.float32(A))
    first_free = round(STEPS * (1 - free))
    self.assertGreater(got[first_free - 1], 0.0)
    np.testing.assert_array_equal(got[first_free:], 0.0 * got[first_free:])

  @parameterized.parameters(1.0, 10.0, float('inf'))
  def test_without_any_penalised_step(self, total):
    with jax.debug_nans(True):
      for step in (0, 1, 7):
        got = penalty_at(step, A, jnp.float32(total), jnp.float32(1.0))
        self.assertEqual(got, 0.0)

  @parameterized.parameters(0.0, 0.2)
  def test_is_constant_where_the_run_has_no_known_end(self, free):
    got = jax.vmap(lambda s: penalty_at(s, A, jnp.inf, free))(
      jnp.asarray([0, 5, 10**6])
    )
    np.testing.assert_array_equal(got, np.full(3, A, np.float32))

  def test_a_run_of_no_steps(self):
    self.assertEqual(penalty_at(0, A, jnp.float32(0.0), 0.2), 0.0)


class DirectionTest(parameterized.TestCase):
  def test_direction_equals_closed_form(self):
    params, retain = setup()
    params['kernel'] = params['kernel'].at[0, 1].set(0.0)
    batch = P.step_of(retain, 0)
    got, metrics = _direction(params, batch, penalty=A)
    theta = P.as_float64(params)
    want = P.twin_loss_gradient(theta, batch)
    want['kernel'] += A * np.sign(theta['kernel'])
    P.assert_close(got, want)
    loss = P.twin_losses(theta, P.real_rows(batch)).mean()
    np.testing.assert_allclose(metrics['retain_loss'], loss, rtol=1e-6)

  def test_what_is_exempt_can_be_chosen(self):
    params, retain = setup()
    batch = P.step_of(retain, 0)
    exempt = lambda p: {'kernel': True, 'bias': False}  # noqa: E731
    got, _ = _direction(params, batch, penalty=A, exempt=exempt)
    want = P.twin_loss_gradient(P.as_float64(params), batch)
    want['bias'] += A * np.sign(np.float64(params['bias']))
    P.assert_close(got, want)

  def test_vectors_and_scalars_are_exempt(self):
    tree = {'k': jnp.ones((2, 3, 4)), 'b': jnp.ones(4), 's': jnp.ones(())}
    self.assertEqual(is_vector(tree), {'k': False, 'b': True, 's': True})

  def test_soft_threshold(self):
    params = {
      'kernel': jnp.asarray([[-2.0, -0.5], [0.25, 1.5]]),
      'bias': jnp.asarray([0.1]),
    }
    got = soft_threshold(params, 0.5)
    np.testing.assert_array_equal(got['kernel'], [[-1.5, 0.0], [0.0, 1.0]])
    P.assert_identical(got['bias'], params['bias'])


class RunTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.2, 1.0)
  def test_run_equals_twin(self, free):
    params, retain = setup()
    method = make(penalty=A, free_fraction=0.5)
    state, metrics = run(
      method, params, retain, total_steps=STEPS, free_fraction=free
    )

    def weight(k):
      return twin_penalty(k, STEPS, free)

    def gradient(p, k):
      total = P.twin_loss_gradient(p, P.step_of(retain, k))
      total['kernel'] += weight(k) * np.sign(p['kernel'])
      return total

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(state.params, want, rtol=1e-4)
    weights = [weight(k) for k in range(STEPS)]
    np.testing.assert_allclose(metrics['penalty'], weights, rtol=1e-5)

  def test_proximal_run_equals_twin(self):
    params, retain = setup()
    rate = HEAVY['learning_rate']
    method = make(
      penalty=A, free_fraction=0.2, proximal=True, learning_rate=rate
    )
    state, _ = run(method, params, retain, total_steps=STEPS)
    theta = P.as_float64(params)
    velocity = jax.tree.map(np.zeros_like, theta)
    for k in range(STEPS):
      decayed = P.add(
        (1.0, P.twin_loss_gradient(theta, P.step_of(retain, k))),
        (HEAVY['weight_decay'], theta),
      )
      velocity = P.add((HEAVY['momentum'], velocity), (1.0, decayed))
      theta = P.add((1.0, theta), (-rate, velocity))
      size = np.abs(theta['kernel']) - rate * twin_penalty(k, STEPS, 0.2)
      theta['kernel'] = np.sign(theta['kernel']) * np.maximum(size, 0.0)
    P.assert_close(state.params, theta, rtol=1e-4)

  @parameterized.parameters(False, True)
  @P.optimised()
  def test_penalty_zero_equals_fine_tune(self, proximal):
    params, retain = setup()
    rate = HEAVY['learning_rate'] if proximal else None
    method = make(penalty=0.0, proximal=proximal, learning_rate=rate)
    got, _ = run(method, params, retain, total_steps=STEPS)
    want, _ = P.run(fine_tune(P.loss_fn, P.sgd(**HEAVY)), params, None, retain)
    P.assert_identical(got.params, want.params)
    P.assert_identical(got.method_state.optimizer, want.method_state.optimizer)

  def test_proximal_with_a_huge_penalty_gives_exact_zeros(self):
    params, retain = setup()
    method = make(
      penalty=1e6, free_fraction=0.0, proximal=True, learning_rate=0.2
    )
    state, _ = run(method, params, retain)
    np.testing.assert_array_equal(state.params['kernel'], np.zeros((4, 3)))
    self.assertTrue(np.asarray(state.params['bias']).all())

  def test_a_weight_at_zero_without_gradient_stays(self):
    params, retain = setup()
    params['kernel'] = params['kernel'].at[1].set(0.0)
    retain['features'] = retain['features'].at[..., 1].set(0.0)
    state, _ = run(make(penalty=A), params, retain)
    np.testing.assert_array_equal(state.params['kernel'][1], np.zeros(3))

  def test_a_run_cut_in_two_goes_on_with_the_schedule(self):
    params, retain = setup()
    half = STEPS // 2
    method = make(penalty=A)
    whole, _ = run(method, params, retain, total_steps=STEPS)
    state, _ = run(
      method,
      params,
      jax.tree.map(lambda x: x[:half], retain),
      total_steps=STEPS,
    )
    rest = jax.tree.map(lambda x: x[half:], retain)
    state, _ = loop.run(method, state, None, rest)
    P.assert_identical(state, whole)

  def test_vmap_over_hyper_parameters(self):
    params, retain = setup()
    method = make(
      penalty=A, free_fraction=0.2, proximal=True, learning_rate=0.2
    )
    sweep = {
      'penalty': np.float32([0.0, 0.05, 0.2]),
      'free_fraction': np.float32([0.2, 1.0, 0.0]),
      'learning_rate': np.float32([0.2, 0.1, 0.3]),
      'total_steps': np.float32([10.0, 10.0, np.inf]),
    }
    states = jax.vmap(
      lambda h: optax.tree_utils.tree_set(
        loop.init(method, params, jax.random.key(0)), **h
      )
    )(sweep)
    many, _ = jax.vmap(lambda s: loop.run(method, s, None, retain))(states)
    for k in range(3):
      one, _ = run(method, params, retain, **P.step_of(sweep, k))
      P.assert_close(P.step_of(many.params, k), one.params)

  @parameterized.parameters(False, True)
  def test_types_are_kept(self, proximal):
    params, retain = setup()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    method = make(penalty=A, proximal=proximal, learning_rate=0.2)
    state, _ = run(method, half, retain)
    for leaf in jax.tree.leaves(state.params):
      self.assertEqual(leaf.dtype, jnp.bfloat16)
    self.assertTrue(P.differ(state.params, half))

  def test_behind_the_mask_and_in_the_forget_batch_nothing_counts(self):
    params, retain = setup()
    method = make(penalty=A)
    want, _ = run(method, params, retain)
    forget = jax.tree.map(lambda x: x * jnp.nan, {'x': retain['features']})
    other = P.nonsense(retain, -7)
    other['features'] /= other['mask'][..., None]  # Infinite, then.
    state = loop.init(method, params, jax.random.key(0))
    got, _ = loop.run(method, state, {**forget, 'mask': retain['mask']}, other)
    P.assert_identical(got, want)


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'penalty': -1.0}, r'penalty must be >= 0, got -1.0'),
    ({'penalty': float('nan')}, r'penalty must be >= 0, got nan'),
    ({'free_fraction': 1.5}, r'free_fraction must be in \[0, 1\], got 1.5'),
    (
      {'proximal': True, 'learning_rate': -0.1},
      r'learning_rate must be >= 0, got -0.1',
    ),
    ({'proximal': True}, r'learning_rate must be given where proximal is true'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      l1_sparse(P.loss_fn, P.sgd(), **options)


if __name__ == '__main__':
  absltest.main()
