"""LoRA: what may move, and how, against the NumPy twin."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.lora import Factors
from unlearn_jax.methods.lora import init_adapters
from unlearn_jax.methods.lora import lora
from unlearn_jax.methods.lora import merge
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.spec import Problem
from unlearn_jax.training import loop
from unlearn_jax.types import UnlearningMethod

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
RANK, SCALE = 2, 3.0


def build(problem, tx):
  return fine_tune(problem.loss_fn, tx)


def build_scrub(problem, tx):
  return scrub(problem.loss_fn, problem.predict_fn, tx, loss_weight=0.0)


@functools.cache
def make(build=build, **options):
  options = {'rank': RANK, 'scale': SCALE, **options}
  return lora(build, P.PROBLEM, P.sgd(**HEAVY), **options)


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  return P.make_params(), forget, P.make_batches(2, STEPS, 7, padding=2)


class MergeTest(parameterized.TestCase):
  @parameterized.parameters((4, 5), (3, 4, 5), (2, 3, 4, 5))
  def test_merged_equals_unmerged(self, *shape):
    rng = np.random.default_rng(0)
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    kernel = rng.normal(size=shape)
    a, b = rng.normal(size=(2, inputs)), rng.normal(size=(outputs, 2))
    x = rng.normal(size=(7, inputs))
    want = x @ kernel.reshape(inputs, outputs) + 1.5 * (x @ a.T) @ b.T
    kernels, adapters = jax.tree.map(
      jnp.float32, ([kernel], {'0': Factors(a, b)})
    )
    got = merge(kernels, adapters, 3.0)[0]
    self.assertEqual((got.shape, got.dtype), (shape, jnp.float32))
    np.testing.assert_allclose(
      x @ np.asarray(got).reshape(inputs, outputs), want, rtol=1e-5, atol=1e-5
    )

  def test_full_rank_reaches_any_kernel(self):
    rng = np.random.default_rng(1)
    start, target = rng.normal(size=(2, 6, 4))
    left, values, right = np.linalg.svd((target - start).T)
    a = values[:, None] * right[:4]
    # With a = r the product is not scaled.
    params, adapters = jax.tree.map(
      jnp.float32, ({'k': start}, {'k': Factors(a, left)})
    )
    merged = merge(params, adapters, 4.0)
    np.testing.assert_allclose(merged['k'], target, atol=1e-5)

  def test_starts_with_normal_a_of_variance_one_over_rank_and_b_zero(self):
    params = {'k': jnp.ones((3, 1000, 5)), 'bias': jnp.ones(5)}
    adapters = init_adapters(params, jax.random.key(0), 4)
    self.assertEqual(set(adapters), {'k'})
    a, b = adapters['k']
    self.assertEqual((a.shape, b.shape), ((4, 3000), (5, 4)))
    np.testing.assert_allclose([a.mean(), a.var()], [0.0, 0.25], atol=0.01)
    np.testing.assert_array_equal(b, np.zeros((5, 4)))

  def test_kernels_of_one_shape_start_apart(self):
    params = {'first': jnp.ones((4, 5)), 'second': jnp.ones((4, 5))}
    first, second = init_adapters(params, jax.random.key(0), 2).values()
    self.assertTrue((first.a != second.a).all())

  def test_identity_at_the_start_in_any_type(self):
    params = {
      'half': jnp.linspace(-3, 3, 20).reshape(4, 5).astype(jnp.bfloat16),
      'whole': jnp.linspace(-3, 3, 24).reshape(2, 3, 4),
    }
    adapters = init_adapters(params, jax.random.key(0), 3)
    P.assert_identical(merge(params, adapters, 16.0), params)


class RunTest(parameterized.TestCase):
  def test_equals_twin(self):
    params, _, retain = setup()
    method = make()
    state = loop.init(method, params, jax.random.key(3))
    start = state.method_state.part['kernel']
    start = jax.tree.map(jnp.copy, start)._asdict()
    state, _ = loop.run(method, state, None, retain)
    theta_o = P.as_float64(params)

    def merged(factors):
      change = SCALE / RANK * (factors['b'] @ factors['a']).T
      return {**theta_o, 'kernel': theta_o['kernel'] + change}

    def gradient(factors, k):
      batch = P.step_of(retain, k)
      slope = P.twin_loss_gradient(merged(factors), batch)['kernel']
      return {
        'a': SCALE / RANK * factors['b'].T @ slope.T,
        'b': SCALE / RANK * slope.T @ factors['a'].T,
      }

    want = P.twin_run(gradient, start, STEPS, **HEAVY)
    got = state.method_state
    P.assert_close(got.part['kernel']._asdict(), want)
    P.assert_close(state.params, merged(want))
    P.assert_identical(got.frozen, params)
    self.assertTrue(P.differ(state.params['kernel'], params['kernel']))

  def test_decay_moves_neither_the_base_nor_what_is_not_selected(self):
    def init_fn(key):
      return {'body': P.init_fn(key), 'head': {'kernel': jnp.eye(P.CLASSES)}}

    def predict_fn(params, batch):
      return P.predict_fn(params['body'], batch) @ params['head']['kernel']

    def loss_fn(params, batch):
      return jnp.square(predict_fn(params, batch)).sum(-1)

    problem = Problem(loss_fn, predict_fn, init_fn)
    params, (_, _, retain) = init_fn(jax.random.key(0)), setup()
    method = lora(
      build,
      problem,
      P.sgd(**HEAVY),
      select=lambda path: path.startswith('head'),
    )
    state, _ = P.run(method, params, None, retain)
    P.assert_identical(state.method_state.frozen, params)
    P.assert_identical(state.params['body'], params['body'])
    self.assertTrue(P.differ(state.params['head'], params['head']))

  def test_types_are_kept(self):
    params, _, retain = setup()
    half = {**params, 'kernel': params['kernel'].astype(jnp.bfloat16)}
    state, _ = P.run(make(), half, None, retain)
    self.assertEqual(state.params['kernel'].dtype, jnp.bfloat16)
    self.assertTrue(P.differ(state.params, half))
    P.assert_identical(state.params['bias'], half['bias'])

  def test_a_teacher_inside_is_the_original_model(self):
    # Distillation alone has no gradient where student and teacher are one.
    params, forget, retain = setup()
    forget = {**forget, 'mask': jnp.zeros_like(forget['mask'])}
    tx = optax.sgd(0.5)
    method = lora(build_scrub, P.PROBLEM, tx)
    state, metrics = P.run(method, params, forget, retain)
    P.assert_identical(state.params, params)
    np.testing.assert_allclose(metrics['retain_objective'], 0.0, atol=1e-6)

  def test_prepare_of_the_inner_rule_works_and_leaves_the_base(self):
    params, forget, retain = setup()

    def build_salun(problem, tx):
      return salun(build(problem, tx), problem.loss_fn, fraction=0.2)

    state, _ = P.run(make(build_salun), params, forget, retain, prepare=True)
    P.assert_identical(state.method_state.frozen, params)
    self.assertTrue(P.differ(state.params, params))
    # A has no gradient where B is 0: the mask is within B.
    mask = state.method_state.inner.mask['kernel']
    self.assertEqual([mask.a.sum(), mask.b.sum()], [0, 3])
    self.assertIsNone(make().prepare)

  def test_an_edit_inside_reaches_the_adapters_alone(self):
    params, forget, retain = setup()

    def prepare(params, state, forget, retain, examples, key):
      return jax.tree.map(lambda x: x + 1.0, params), state

    inner = UnlearningMethod(lambda p, k: (), None, prepare)
    method = make(lambda problem, tx: inner)
    state = loop.init(method, params, jax.random.key(0))
    a, b = state.method_state.part['kernel']
    change = SCALE / RANK * (np.asarray(b) + 1) @ (np.asarray(a) + 1)
    state = loop.prepare(method, state, forget, retain)
    want = {**params, 'kernel': params['kernel'] + change.T}
    P.assert_close(state.params, want)
    self.assertEqual(state.method_state.hyper['lora_scale'], SCALE)

  def test_vmap_over_keys_and_scales_equals_separate_runs(self):
    params, _, retain = setup()
    keys = jax.random.split(jax.random.key(5), 3)
    scales = jnp.asarray([0.0, 3.0, 3.0])

    def start(key, scale):
      state = loop.init(make(), params, key)
      return optax.tree_utils.tree_set(state, lora_scale=scale + 0.0)

    state = jax.vmap(start)(keys, scales)
    many, _ = jax.vmap(lambda s: loop.run(make(), s, None, retain))(state)
    for k in range(3):
      one, _ = loop.run(make(), start(keys[k], scales[k]), None, retain)
      P.assert_close(P.step_of(many.params, k), one.params)
    P.assert_identical(P.step_of(many.params, 0), params)
    self.assertTrue(P.differ(*(P.step_of(many.params, k) for k in (1, 2))))


class StackedTest(parameterized.TestCase):
  def test_each_layer_of_a_stack_has_factors_of_its_own(self):
    rng = np.random.default_rng(0)
    params = {
      'layers': {'kernel': rng.normal(size=(3, 4, 5)), 'bias': np.ones((3, 5))},
      'head': {'kernel': rng.normal(size=(5, 2))},
    }
    params = jax.tree.map(jnp.float32, params)
    adapters = init_adapters(params, jax.random.key(0), 2, stacks=('layers',))
    self.assertEqual(set(adapters), {'layers/kernel', 'head/kernel'})
    a, b = adapters['layers/kernel']
    self.assertEqual((a.shape, b.shape), ((3, 2, 4), (3, 5, 2)))
    b = jnp.float32(rng.normal(size=b.shape))
    merged = merge(params, {'layers/kernel': Factors(a, b)}, 6.0)
    for i in range(3):
      want = params['layers']['kernel'][i] + 3.0 * (b[i] @ a[i]).T
      np.testing.assert_allclose(merged['layers']['kernel'][i], want, rtol=1e-5)


class BesideTest(parameterized.TestCase):
  def test_factors_beside_a_kernel_are_their_sum(self):
    """A network that takes them never sees the sum, and takes its steps."""

    def predict_fn(params, batch):
      logits = P.predict_fn(params, batch)
      if 'low_rank' not in params:
        return logits
      a, b = params['low_rank']
      return logits + (batch['features'] @ a.T) @ b.T

    _, forget, retain = setup()
    states = []
    for is_linear in (None, lambda path: path == 'kernel'):
      problem = P.make_problem(predict=predict_fn, is_linear=is_linear)
      method = lora(build, problem, P.sgd(), rank=RANK, scale=SCALE)
      states.append(P.run(method, P.make_params(), forget, retain)[0])
    P.assert_close(states[0].params, states[1].params)
    self.assertTrue(P.differ(states[0].params, P.make_params()))


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('rank', 0, '>= 1'), ('scale', -1.0, '>= 0'), ('scale', math.nan, '>= 0')
  )
  def test_option(self, name, value, bound):
    message = f'{name} must be {bound}, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      lora(build, P.PROBLEM, P.sgd(), **{name: value})

  def test_no_kernel_selected(self):
    method = lora(build, P.PROBLEM, P.sgd(), select=lambda path: path == 'bias')
    with self.assertRaisesRegex(ValueError, 'select must name kernels'):
      loop.init(method, P.make_params(), jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
