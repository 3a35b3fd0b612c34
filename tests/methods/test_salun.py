"""SalUn: the saliency mask, and what a masked rule may and may not move."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.salun import forget_gradient
from unlearn_jax.methods.salun import saliency_mask
from unlearn_jax.methods.salun import salun
from unlearn_jax.training import loop
from unlearn_jax.types import UnlearningMethod

STEPS = 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
SIZE = P.FEATURES * P.CLASSES + P.CLASSES

_gradient = jax.jit(functools.partial(forget_gradient, loss_fn=P.loss_fn))
_inner = random_label(P.loss_fn, P.predict_fn, P.sgd(**HEAVY))


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


def mask_of(params, forget, fraction=0.5, per_leaf=False):
  gradient = _gradient(params, forget, None)
  return saliency_mask(gradient, fraction, per_leaf=per_leaf)


@functools.cache
def make(fraction, per_leaf=False):
  return salun(_inner, P.loss_fn, fraction=fraction, per_leaf=per_leaf)


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def twin_sum(params, forget):
  """Gradient of the loss summed over all batches, in float64."""
  theta = P.as_float64(params)
  batches = [P.step_of(forget, k) for k in range(len(forget['mask']))]
  return P.add(
    *((b['mask'].sum(), P.twin_loss_gradient(theta, b)) for b in batches)
  )


class SaliencyTest(parameterized.TestCase):
  def test_forget_gradient_equals_twin(self):
    params, forget, _ = setup()
    got = _gradient(params, forget, None)
    P.assert_close(got, twin_sum(params, forget))

  def test_first_batch_is_not_dropped(self):
    params, forget, _ = setup()
    first = jax.tree.map(lambda x: x[:1], forget)
    P.assert_close(_gradient(params, first, None), twin_sum(params, first))

  @parameterized.parameters(0.2, 0.5, 0.9)
  def test_marks_the_largest_of_the_whole_tree(self, fraction):
    params, forget, _ = setup()
    saliency = np.abs(flat(twin_sum(params, forget)))
    count = round(fraction * SIZE)
    want = np.zeros(SIZE, bool)
    want[np.argsort(-saliency)[:count]] = True
    mask = mask_of(params, forget, fraction=fraction)
    np.testing.assert_array_equal(flat(mask), want)
    self.assertEqual(jax.tree.structure(mask), jax.tree.structure(params))

  @parameterized.product(fraction=(0.0, 1.0), per_leaf=(False, True))
  def test_extreme_fractions(self, fraction, per_leaf):
    params, forget, _ = setup()
    mask = mask_of(params, forget, fraction=fraction, per_leaf=per_leaf)
    self.assertTrue((flat(mask) == (fraction == 1.0)).all())

  @parameterized.product(value=(np.inf, np.nan), per_leaf=(False, True))
  def test_extreme_fractions_of_gradients_that_are_not_finite(
    self, value, per_leaf
  ):
    gradient = {'a': jnp.asarray([1.0, value, -2.0]), 'b': jnp.ones((2, 2))}
    for fraction in (0.0, 1.0):
      mask = saliency_mask(gradient, fraction, per_leaf=per_leaf)
      for leaf in jax.tree.leaves(mask):
        self.assertTrue((leaf == bool(fraction)).all())

  def test_ties_at_the_threshold_are_all_kept(self):
    gradient = {'a': jnp.asarray([3.0, -2.0, 0.5]), 'b': jnp.asarray([2.0])}
    mask = saliency_mask(gradient, 0.5)
    np.testing.assert_array_equal(mask['a'], [True, True, False])
    np.testing.assert_array_equal(mask['b'], [True])

  def test_per_leaf_takes_the_share_inside_each_leaf(self):
    gradient = {
      'large': jnp.asarray([[9.0, -8.0], [7.0, 6.0]]),
      'small': jnp.asarray([0.1, 0.4, -0.3, 0.2]),
    }
    whole = saliency_mask(gradient, 0.5)
    np.testing.assert_array_equal(whole['large'], np.ones((2, 2), bool))
    np.testing.assert_array_equal(whole['small'], np.zeros(4, bool))
    mask = saliency_mask(gradient, 0.5, per_leaf=True)
    np.testing.assert_array_equal(mask['large'], [[True, True], [False, False]])
    np.testing.assert_array_equal(mask['small'], [False, True, True, False])

  @parameterized.parameters(1, 20)
  def test_batch_size_changes_neither_saliency_nor_mask(self, size):
    params, forget, _ = setup()
    rows = P.real_rows(jax.tree.map(np.concatenate, dict(forget)))
    cut = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), rows)
    self.assertEqual(cut['mask'].shape, (20 // size, size))
    P.assert_close(
      _gradient(params, cut, None), _gradient(params, forget, None)
    )
    P.assert_identical(mask_of(params, cut), mask_of(params, forget))


class SalunTest(parameterized.TestCase):
  def test_mask_of_ones_equals_the_inner_rule(self):
    params, forget, retain = setup()
    method = make(1.0)
    got, metrics = P.run(method, params, forget, retain, prepare=True)
    want, inner_metrics = P.run(_inner, params, forget, retain)
    P.assert_identical(got.params, want.params)
    P.assert_identical(metrics, inner_metrics)

  def test_without_prepare_every_weight_may_move(self):
    params, forget, retain = setup()
    method = make(0.0)
    got, _ = P.run(method, params, forget, retain)
    want, _ = P.run(_inner, params, forget, retain)
    P.assert_identical(got.params, want.params)

  def test_mask_of_zeros_is_the_identity(self):
    params, forget, retain = setup()
    method = make(0.0)
    got, _ = P.run(method, params, forget, retain, prepare=True)
    P.assert_identical(got.params, params)

  def test_decay_and_momentum_do_not_move_masked_weights(self):
    params, forget, retain = setup()
    order = np.arange(50) % STEPS
    forget, retain = (P.steps_of(b, order) for b in (forget, retain))
    method = make(0.4)
    state, _ = P.run(method, params, forget, retain, prepare=True)
    mask = flat(state.method_state.mask)
    self.assertEqual(mask.sum(), round(0.4 * SIZE))
    moved = flat(state.params) != flat(params)
    np.testing.assert_array_equal(moved, mask)

  def test_masked_run_equals_twin(self):
    params, forget, retain = setup()
    inner = neg_grad_plus(P.loss_fn, P.sgd(**HEAVY), retain_weight=0.7)
    method = salun(inner, P.loss_fn, fraction=0.4)
    state, _ = P.run(method, params, forget, retain, prepare=True)
    mask = P.as_float64(state.method_state.mask)
    theta, velocity = P.as_float64(params), 0.0
    for k in range(STEPS):
      gradient = P.add(
        (0.7, P.twin_loss_gradient(theta, P.step_of(retain, k))),
        (-0.3, P.twin_loss_gradient(theta, P.step_of(forget, k))),
        (HEAVY['weight_decay'], theta),
      )
      # The momentum runs over every weight, masked or not.
      velocity = (
        P.add((HEAVY['momentum'], velocity), (1.0, gradient)) if k else gradient
      )
      theta = {
        name: x - HEAVY['learning_rate'] * mask[name] * velocity[name]
        for name, x in theta.items()
      }
    P.assert_close(state.params, theta)

  @parameterized.parameters(False, True)
  def test_prepare_makes_the_mask_and_the_run_keeps_it(self, per_leaf):
    params, forget, retain = setup()
    method = make(0.4, per_leaf)
    state, _ = P.run(method, params, forget, retain, prepare=True)
    want = mask_of(params, forget, 0.4, per_leaf)
    P.assert_identical(state.method_state.mask, want)
    self.assertTrue(P.differ(want, mask_of(params, forget, 0.4, not per_leaf)))

  def test_prepare_passes_through_to_the_inner_rule(self):
    params, forget, retain = setup()

    def prepare(params, state, forget, retain, examples, key):
      sums = forget['mask'].sum(), retain['mask'].sum(), params['bias'].sum()
      seen = {'seen': jnp.stack(sums), 'key': key, 'before': state}
      return jax.tree.map(lambda x: x + 1, params), seen

    inner = UnlearningMethod(lambda p, k: jnp.ones(()), None, prepare)
    method = salun(inner, P.loss_fn, fraction=0.4)
    state = loop.init(method, params, jax.random.key(0))
    run_key = jnp.copy(state.key)
    state = loop.prepare(method, state, forget, retain)
    got = state.method_state.inner
    want = [20.0, 25.0, np.sum(params['bias'])]
    np.testing.assert_allclose(got['seen'], want, rtol=1e-6)
    P.assert_identical((got['key'], got['before']), (run_key, jnp.ones(())))
    mask = mask_of(params, forget, fraction=0.4)
    P.assert_identical(state.method_state.mask, mask)
    moved = jax.tree.map(lambda m, x: jnp.where(m, x + 1, x), mask, params)
    P.assert_identical(state.params, moved)

  @parameterized.parameters(-0.1, 1.2, float('nan'))
  def test_bounds(self, fraction):
    message = rf'fraction must be in \[0, 1\], got {fraction}'
    with self.assertRaisesRegex(ValueError, message):
      make(fraction)


if __name__ == '__main__':
  absltest.main()
