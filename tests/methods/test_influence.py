"""Influence against retraining and dense NumPy solves, with WoodFisher."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from influence_problems import BOTH
from influence_problems import clustered_examples
from influence_problems import edit
from influence_problems import EXACT
from influence_problems import flat
from influence_problems import gradients_of
from influence_problems import hessian_of
from influence_problems import make
from influence_problems import mean_of
from influence_problems import restack
from influence_problems import setup
from influence_problems import stack
from influence_problems import train
from influence_problems import unflat
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.influence import influence
from unlearn_jax.methods.influence import take_step
from unlearn_jax.methods.woodfisher import woodfisher
from unlearn_jax.training import loop

DECAY = 0.1


# Ridge regression, whose retraining has a closed form.


def ridge_predict(params, batch):
  return batch['features'] @ params['w'][:, None] + params['b'][None]


def ridge_loss(params, batch):
  return 0.5 * jnp.square(ridge_predict(params, batch)[:, 0] - batch['label'])


_ridge = functools.partial(
  influence, ridge_loss, ridge_predict, curvature='hessian', **EXACT
)
_newton = _ridge(gradient='retain', weight_decay=DECAY)
_influence = _ridge(gradient='forget', weight_decay=DECAY)


class Ridge:
  """20 examples of 3 features, the bias among them; 4 are to be forgotten."""

  def __init__(self, seed=0):
    rng = np.random.default_rng(seed)
    self.x, self.y = rng.normal(size=(20, 2)), rng.normal(size=20)
    self.forgets = np.arange(20) < 4

  def hessian(self, keep):
    ones = np.ones((20, 1))
    x = np.concatenate([ones, self.x], 1)[keep]
    return x.T @ x + len(x) * DECAY * np.eye(3), x.T @ self.y[keep]

  def solve(self, keep):
    """The bias, then the weights."""
    return np.linalg.solve(*self.hessian(keep))

  def stacked(self, keep, size=5):
    """Stacked batches in which only `keep` counts."""
    rows = {'features': self.x, 'label': self.y, 'mask': keep}
    rows = {name: jnp.float32(value) for name, value in rows.items()}
    rows['id'] = jnp.arange(20)
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), rows)

  def params(self, vector):
    return {'b': jnp.float32(vector[:1]), 'w': jnp.float32(vector[1:])}

  def edit(self, method, start, **hyper):
    sets = (self.stacked(keep) for keep in (self.forgets, ~self.forgets))
    return edit(method, self.params(start), *sets, **hyper)


def relative(got, want):
  return np.linalg.norm(flat(got) - want) / np.linalg.norm(want)


class RidgeTest(parameterized.TestCase):
  @parameterized.parameters('retain', 'forget')
  def test_newton_removal_equals_retraining(self, gradient):
    task, method = Ridge(), {'retain': _newton, 'forget': _influence}[gradient]
    everything = np.ones(20, bool)
    got, report = task.edit(method, task.solve(everything))
    retrained = task.solve(~task.forgets)
    self.assertLess(relative(got, retrained), 1e-5)
    self.assertLess(report['residual'], 1e-6)
    self.assertLessEqual(report['iterations'], 5)
    self.assertEqual(report['negative_curvature'], 0)
    self.assertGreater(
      relative(task.params(task.solve(everything)), retrained), 0.1
    )

  def test_gradient_of_the_retain_set_is_right_from_anywhere(self):
    task = Ridge()
    start = np.asarray([3.0, -1.0, 2.0])
    retrained = task.solve(~task.forgets)
    got, _ = task.edit(_newton, start)
    self.assertLess(relative(got, retrained), 1e-5)
    got, _ = task.edit(_influence, start)
    self.assertGreater(relative(got, retrained), 1.0)

  def test_hessian_is_that_of_the_retain_set_alone(self):
    task = Ridge()
    everything = np.ones(20, bool)
    original, retrained = task.solve(everything), task.solve(~task.forgets)
    hessian, right = task.hessian(~task.forgets)
    gradient = hessian @ original - right
    with_all = original - np.linalg.solve(task.hessian(everything)[0], gradient)
    missed = np.linalg.norm(with_all - retrained) / np.linalg.norm(retrained)
    got, _ = task.edit(_newton, original)
    self.assertGreater(missed, 100 * relative(got, retrained))
    self.assertGreater(missed, 0.02)

  def test_half_a_step_goes_half_of_the_way(self):
    task = Ridge()
    original = task.solve(np.ones(20, bool))
    want = 0.5 * (original + task.solve(~task.forgets))
    params, report = task.edit(_newton, original, step=0.5)
    self.assertLess(relative(params, want), 1e-5)
    length = np.linalg.norm(want - original)
    np.testing.assert_allclose(report['step_norm'], length, rtol=1e-4)

  def test_loss_without_lower_bound_reports_negative_curvature(self):
    method = influence(
      lambda p, b: -ridge_loss(p, b),
      ridge_predict,
      curvature='hessian',
      gradient='retain',
      **EXACT,
    )
    task = Ridge()
    start = task.params(np.ones(3))
    got, report = edit(method, start, None, task.stacked(~task.forgets))
    P.assert_identical(got, start)
    self.assertEqual(report['negative_curvature'], 1)
    self.assertEqual(report['residual'], 1)


class LogisticTest(parameterized.TestCase):
  def test_error_falls_quadratically_with_the_size_of_the_forget_set(self):
    examples, decay = clustered_examples(), float(np.float32(0.01))
    original = train(examples, np.ones(400), decay)
    sizes, errors, distances = (2, 4, 8, 16), [], []
    with jax.enable_x64(True):
      options = {**EXACT, 'tolerance': 1e-12, 'weight_decay': decay}
      method = influence(P.loss_fn, P.predict_fn, samples=None, **options)
      params = jax.tree.map(jnp.asarray, unflat(original))
      for size in sizes:
        # One program: both sets have every row, and a mask of their own.
        forgets = np.arange(400) < size
        sets = (stack(examples, keep) for keep in (forgets, ~forgets))
        got, _ = edit(method, params, *sets)
        self.assertEqual(got['kernel'].dtype, jnp.float64)
        want = train(examples, np.float64(~forgets), decay)
        errors.append(np.linalg.norm(flat(got) - want))
        distances.append(np.linalg.norm(original - want))

    def slope(values):
      return np.polyfit(np.log(sizes), np.log(values), 1)[0]

    self.assertBetween(slope(errors), 1.8, 2.2)
    self.assertBetween(slope(distances), 0.9, 1.2)
    self.assertLess(errors[0], 0.05 * distances[0])

  @parameterized.parameters(('forget', 'gauss_newton'), ('retain', 'hessian'))
  def test_step_equals_dense_solve(self, gradient, kind):
    params, forget, retain = setup()
    method = make('influence', None, gradient=gradient, curvature=kind)
    hyper = {**EXACT, 'damping': 2.0, 'weight_decay': 0.05}
    got, report = edit(method, params, forget, retain, **hyper)
    theta = P.as_float64(params)
    rows = {
      name: P.real_rows(jax.tree.map(np.concatenate, dict(stacked)))
      for name, stacked in (('forget', forget), ('retain', retain))
    }
    sums = {n: gradients_of(theta, r).sum(0) for n, r in rows.items()}
    n_forget, n_retain = (len(rows[n]['mask']) for n in ('forget', 'retain'))
    right = sums['retain'] + n_retain * 0.05 * flat(params)
    if gradient == 'forget':
      right = -(sums['forget'] + n_forget * 0.05 * flat(params))
    # The state's key, as `loop.init` and the rule split it.
    key = jax.random.split(jax.random.split(jax.random.key(0))[1])[1]
    _, mean = mean_of(params, retain, key, kind)
    dense = hessian_of(theta, rows['retain'])
    ridge = n_retain * 0.05 + 2.0 * float(mean)
    step = np.linalg.solve(dense + ridge * np.eye(len(dense)), right)
    np.testing.assert_allclose(
      flat(got), flat(params) - step, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
      report['step_norm'], np.linalg.norm(step), rtol=1e-4
    )


class LimitTest(parameterized.TestCase):
  @parameterized.parameters(*BOTH)
  def test_step_zero_is_the_identity(self, name):
    params, forget, retain = setup()
    moved, _ = edit(make(name, 9), params, forget, retain)
    self.assertTrue(P.differ(moved, params))
    for hyper in ({'step': 0.0}, {'max_step_norm': 0.0}):
      got, report = edit(make(name, 9), params, forget, retain, **hyper)
      P.assert_identical(got, params)
      self.assertEqual(report['step_norm'], 0)

  @parameterized.parameters(*BOTH)
  def test_nothing_to_forget_is_the_identity(self, name):
    params, forget, retain = setup()
    nothing = {**forget, 'mask': jnp.zeros_like(forget['mask'])}
    got, _ = edit(make(name, 9), params, nothing, retain)
    P.assert_identical(got, params)

  def test_nothing_to_forget_at_a_stationary_point_is_the_identity(self):
    task = Ridge()
    retrained = task.solve(~task.forgets)
    got, report = task.edit(_newton, retrained)
    self.assertLess(relative(got, retrained), 1e-6)
    self.assertLess(report['step_norm'], 1e-6)

  @parameterized.parameters(*BOTH)
  def test_padding_alone_is_the_identity(self, name):
    params, *stacked = setup()
    padding = [{**s, 'mask': jnp.zeros_like(s['mask'])} for s in stacked]
    got, report = edit(make(name, 9), params, *padding)
    P.assert_identical(got, params)
    self.assertEqual(report['step_norm'], 0)

  @parameterized.parameters(*BOTH)
  def test_no_retain_set_at_all_is_the_identity(self, name):
    params, forget, retain = setup()
    nothing = {**retain, 'mask': jnp.zeros_like(retain['mask'])}
    got, _ = edit(make(name, 9), params, forget, nothing)
    P.assert_identical(got, params)

  @parameterized.parameters(*BOTH)
  def test_norm_of_the_step_is_bounded(self, name):
    params, forget, retain = setup()
    free, report = edit(make(name, 9), params, forget, retain, step=3.0)
    bound = 0.4 * report['step_norm']
    got, bounded = edit(
      make(name, 9), params, forget, retain, step=3.0, max_step_norm=bound
    )
    np.testing.assert_allclose(bounded['step_norm'], bound, rtol=1e-5)
    want = flat(params) + 0.4 * (flat(free) - flat(params))
    np.testing.assert_allclose(flat(got), want, rtol=1e-4, atol=1e-6)

  def test_step_zero_ignores_a_direction_that_is_not_finite(self):
    params = P.make_params()
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    got, _ = take_step(params, nan, step=0.0, max_step_norm=jnp.inf)
    P.assert_identical(got, params)


class InvarianceTest(parameterized.TestCase):
  @parameterized.parameters(*BOTH)
  def test_batching_and_order_change_nothing(self, name):
    params, forget, retain = setup()
    method = make(name, 9)
    want, _ = edit(method, params, forget, retain)
    order = np.random.default_rng(0).permutation(20)
    got, _ = edit(method, params, restack(forget, 3), restack(retain, 4, order))
    P.assert_close(got, want, rtol=1e-4, atol=1e-5)

  @parameterized.product(BOTH, value=(np.nan, np.inf, -7))
  def test_what_stands_behind_the_mask_changes_nothing(self, name, value):
    params, *stacked = setup()
    method = make(name, 9)
    want, _ = edit(method, params, *stacked)
    other = [P.nonsense(s, -7) for s in stacked]
    for s in other:
      keep = s['mask'][..., None] > 0
      s['features'] = jnp.where(keep, s['features'], value)
    got, _ = edit(method, params, *other)
    P.assert_identical(got, want)

  @parameterized.parameters(*BOTH)
  def test_rows_of_examples_give_what_stacked_batches_give(self, name):
    params, _, _ = setup()
    examples = P.make_examples(33, 4)
    sets = [
      batches.one_pass(np.arange(8), 5),
      batches.one_pass(np.arange(8, 33), 7),
    ]
    method = make(name, 9)
    got, _ = edit(method, params, *sets, examples=examples)
    stacked = [jax.vmap(lambda b: batches.take(examples, b))(s) for s in sets]
    want, _ = edit(method, params, *stacked)
    P.assert_close(got, want)

  @parameterized.parameters(*BOTH)
  def test_types_and_structure_are_kept(self, name):
    params, *stacked = setup()
    half = {
      'bias': params['bias'],
      'kernel': params['kernel'].astype(jnp.bfloat16),
    }
    got, _ = edit(make(name, 9), half, *stacked)
    want, _ = edit(make(name, 9), jax.tree.map(jnp.float32, half), *stacked)
    self.assertEqual(got['kernel'].dtype, jnp.bfloat16)
    self.assertEqual(got['bias'].dtype, jnp.float32)
    # The solve is in float32: only the last rounding differs.
    P.assert_close(got, want, rtol=2**-8, atol=1e-6)

  @parameterized.parameters(*BOTH)
  def test_vmap_over_keys_models_and_hyper_parameters(self, name):
    _, *stacked = setup()
    method = make(name, 9)
    models = [P.make_params(seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(5), 3)
    sweep = {
      'damping': jnp.float32([0.5, 3.0, 10.0]),
      'step': jnp.float32([1.0, 0.5, 2.0]),
      'weight_decay': jnp.float32([0.0, 0.01, 0.1]),
    }
    if name == 'influence':
      sweep['max_iterations'] = jnp.float32([1, 2, 4])

    def run(params, key, hyper):
      state = loop.init(method, params, key)
      state = optax.tree_utils.tree_set(state, **hyper)
      return loop.prepare(method, state, *stacked)

    models_stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    many = jax.vmap(run)(*jax.tree.map(jnp.copy, (models_stacked, keys, sweep)))
    for k, params in enumerate(models):
      want = run(params, keys[k], P.step_of(sweep, k))
      P.assert_close(
        P.step_of(many.params, k), want.params, rtol=1e-4, atol=1e-5
      )
    if name == 'influence':
      counts = many.method_state.report['iterations']
      np.testing.assert_array_equal(counts, [1, 2, 4])


class OptionsTest(parameterized.TestCase):
  def test_sets_that_are_needed(self):
    both = frozenset({'forget', 'retain'})
    self.assertEqual(make('influence', 9).needs, both)
    self.assertEqual(make('woodfisher', 9).needs, both)
    self.assertEqual(_newton.needs, {'retain'})

  @parameterized.parameters(
    ('samples', 0, '>= 1'),
    ('max_iterations', 0, '>= 1'),
    ('step', -1.0, '>= 0'),
    ('max_step_norm', -1.0, '>= 0'),
    ('damping', float('nan'), '>= 0'),
    ('weight_decay', -0.5, '>= 0'),
    ('tolerance', -0.5, '>= 0'),
    ('gradient', 'both', "'forget' or 'retain'"),
    ('curvature', 'fisher', "'gauss_newton' or 'hessian'"),
  )
  def test_bounds_of_influence(self, name, value, bound):
    message = f'{name} must be {bound}, got {value!r}.'
    with self.assertRaisesWithLiteralMatch(ValueError, message):
      influence(P.loss_fn, P.predict_fn, **{name: value})

  @parameterized.parameters(
    ('samples', 0, '>= 1'),
    ('step', -1.0, '>= 0'),
    ('max_step_norm', -1.0, '>= 0'),
    ('damping', 0.0, '> 0'),
    ('damping', float('nan'), '> 0'),
    ('weight_decay', -0.5, '>= 0'),
  )
  def test_bounds_of_woodfisher(self, name, value, bound):
    message = f'{name} must be {bound}, got {value!r}.'
    with self.assertRaisesWithLiteralMatch(ValueError, message):
      woodfisher(P.loss_fn, **{name: value})


if __name__ == '__main__':
  absltest.main()
