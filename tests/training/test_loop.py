"""The compiled loop: cut anywhere, padded anywhere, the same bit for bit."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.training import loop
from unlearn_jax.training.step import descend
from unlearn_jax.types import UnlearningMethod

STEPS = 6


def augment(key, batch):
  noise = jax.random.normal(key, batch['features'].shape)
  return {**batch, 'features': batch['features'] + 0.3 * noise}


# It reads the key of every step.
METHOD = descend(P.loss_fn, P.sgd(0.1, 0.9, 0.1), augment)
BOTH = neg_grad_plus(P.loss_fn, P.sgd(0.1, 0.9, 0.1))

_step = jax.jit(loop.step, static_argnames='method')


def retain_batches():
  return P.make_batches(2, STEPS, 7, padding=2)


def start(method=METHOD, key=0):
  return loop.init(method, P.make_params(), jax.random.key(key))


def piece(stacked, first, last):
  return jax.tree.map(lambda x: x[first:last], stacked)


class RunTest(parameterized.TestCase):
  def test_scan_equals_a_python_loop(self):
    retain, state, losses = retain_batches(), start(), []
    for k in range(STEPS):
      state, metrics = _step(METHOD, state, None, P.step_of(retain, k))
      losses.append(metrics['retain_loss'])
    want, metrics = loop.run(METHOD, start(), None, retain)
    P.assert_close(state.params, want.params, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(losses, metrics['retain_loss'], rtol=1e-6)
    self.assertEqual((int(state.step), int(want.step)), (STEPS, STEPS))

  def test_run_equals_twin(self):
    method = descend(P.loss_fn, P.sgd(0.1, 0.9, 0.1))
    retain = retain_batches()
    state, metrics = P.run(method, P.make_params(), None, retain)
    theta, losses = P.as_float64(P.make_params()), []

    def gradient(p, k):
      batch = P.step_of(retain, k)
      losses.append(P.twin_losses(p, P.real_rows(batch)).mean())
      return P.twin_loss_gradient(p, batch)

    want = P.twin_run(
      gradient,
      theta,
      STEPS,
      learning_rate=0.1,
      momentum=0.9,
      weight_decay=0.1,
    )
    P.assert_close(state.params, want)
    np.testing.assert_allclose(metrics['retain_loss'], losses, rtol=1e-5)

  @parameterized.parameters((0,), (1,), (3,), (1, 3, 4))
  def test_cut_anywhere_gives_the_same(self, *cuts):
    retain, state, parts = retain_batches(), start(), []
    edges = (0, *cuts, STEPS)
    for first, last in zip(edges[:-1], edges[1:], strict=True):
      part = piece(retain, first, last)
      state, metrics = loop.run(METHOD, state, None, part)
      parts.append(metrics['retain_loss'])
    want, metrics = loop.run(METHOD, start(), None, retain)
    P.assert_identical(state, want)
    P.assert_identical(jnp.concatenate(parts), metrics['retain_loss'])

  @parameterized.parameters(
    ((-1, -1, 0, 1, 2, 3, 4, 5),),
    ((0, 1, -1, 2, -1, 3, 4, 5),),
    ((0, 1, 2, 3, 4, 5, -1, -1),),
  )
  def test_steps_of_padding_change_nothing(self, order):
    retain = retain_batches()
    padded = P.steps_of(retain, order)
    got, metrics = loop.run(METHOD, start(), None, padded)
    want, losses = loop.run(METHOD, start(), None, retain)
    P.assert_identical(got, want)
    self.assertEqual(got.step, STEPS)
    expected = np.zeros(len(order), np.float32)
    expected[np.asarray(order) >= 0] = losses['retain_loss']
    np.testing.assert_array_equal(metrics['retain_loss'], expected)

  def test_padding_without_jit(self):
    """One branch alone runs then: that of a first step of padding is asked."""
    padded = P.steps_of(retain_batches(), [-1, 0])
    want, losses = loop.run(METHOD, start(), None, padded)
    with jax.disable_jit():
      got, metrics = loop.run(METHOD, start(), None, padded)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(metrics['retain_loss'], losses['retain_loss'])
    self.assertEqual(metrics['retain_loss'][0], 0)

  def test_a_step_is_skipped_only_where_both_sets_are_padding(self):
    forget = P.steps_of(P.make_batches(1, 3, 5), [0, 1, -1, -1])
    retain = P.steps_of(retain_batches(), [0, -1, 2, -1])
    state, metrics = P.run(BOTH, P.make_params(), forget, retain)
    self.assertEqual(state.step, 3)
    for name, want in (
      ('forget_loss', [True, True, False, False]),
      ('retain_loss', [True, False, True, False]),
    ):
      np.testing.assert_array_equal(metrics[name] > 0, want)

  def test_index_batches_equal_stacked_batches(self):
    examples = P.make_examples(30)
    rng = np.random.default_rng(0)
    forget = batches.repeat(np.arange(8), 3, 5, rng)
    retain = batches.one_pass(np.arange(8, 30), 5, rng)
    stacked = [
      jax.tree.map(
        lambda *x: jnp.stack(x),
        *(
          batches.take(examples, IndexBatches(b.rows[k], b.mask[k]))
          for k in range(5)
        ),
      )
      for b in (forget, retain)
    ]
    got, metrics = loop.run(BOTH, start(BOTH), forget, retain, examples)
    want, same = loop.run(BOTH, start(BOTH), *stacked)
    P.assert_identical(got, want)
    P.assert_identical(metrics, same)

  def test_one_trace_serves_every_call(self):
    traced = []

    def update(params, state, forget, retain, key):
      traced.append(key)
      return METHOD.update(params, state, forget, retain, key)

    method = UnlearningMethod(METHOD.init, update)
    P.run(method, P.make_params(), None, retain_batches())
    count = len(traced)
    self.assertEqual(count, 1)  # A step takes seconds to trace.
    other = P.make_batches(5, STEPS, 7, padding=1)
    state, _ = P.run(method, P.make_params(4), None, other, key=7)
    loop.run(method, state, None, retain_batches())
    self.assertLen(traced, count)


class StateTest(parameterized.TestCase):
  def test_init_copies_what_run_donates(self):
    params, key = P.make_params(), jax.random.key(0)
    state = loop.init(METHOD, params, key)
    loop.run(METHOD, state, None, retain_batches())
    self.assertTrue(state.params['kernel'].is_deleted())
    P.assert_identical(params, P.make_params())
    P.assert_identical(key, jax.random.key(0))

  def test_keys_of_init_and_of_every_step(self):
    def update(params, state, forget, retain, key):
      return params, state, {'key': jax.random.key_data(key)}

    method = UnlearningMethod(lambda params, key: key, update)
    state = start(method, key=9)
    init_key, run_key = jax.random.split(jax.random.key(9))
    P.assert_identical((state.method_state, state.key), (init_key, run_key))
    self.assertEqual(state.step, 0)
    order = [0, -1, 1, 2]  # A skipped step takes no key.
    _, metrics = loop.run(
      method, state, None, P.steps_of(retain_batches(), order)
    )
    want = [
      jax.random.key_data(jax.random.fold_in(run_key, k)) for k in (0, 1, 2)
    ]
    np.testing.assert_array_equal(metrics['key'][jnp.asarray([0, 2, 3])], want)


class FoldTest(absltest.TestCase):
  def test_folds_over_stacked_and_over_index_batches(self):
    examples = P.make_examples(10)
    index = batches.one_pass(np.arange(3, 10), 4)
    stacked = jax.vmap(lambda b: batches.take(examples, b))(
      jax.tree.map(jnp.asarray, index)
    )

    def digits(carry, batch):
      # Not commutative, so that the order of the steps shows.
      return 10.0 * carry + (batch['mask'] * batch['features'][:, 0]).sum()

    x = np.float64(examples['features'][3:, 0])
    want = 10.0 * (10.0 * 1.0 + x[:4].sum()) + x[4:].sum()
    got = loop.fold(digits, jnp.ones(()), index, examples)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    P.assert_identical(loop.fold(digits, jnp.ones(()), stacked), got)

  def test_no_steps_give_the_initial_value(self):
    got = loop.fold(
      lambda c, b: c + 1.0,
      jnp.ones(()),
      batches.empty(0, 4),
      P.make_examples(3),
    )
    self.assertEqual(got, 1.0)


class BadBatchesTest(parameterized.TestCase):
  """Each is refused before anything is traced, in one line."""

  @parameterized.named_parameters(
    (
      'other_steps',
      lambda b: P.steps_of(b, [0, 1, 1]),
      'forget and retain batches must have the same steps, got 3 and 2',
    ),
    (
      'no_mask',
      lambda b: {'label': b['label'], 'x': b['features']},
      r"forget batches must hold a 'mask' \[steps, batch\], got label, x",
    ),
    (
      'one_batch',
      lambda b: P.step_of(b, 0),
      r'the mask of forget batches must be \[steps, batch\], got \(3,\)',
    ),
  )
  def test_forget(self, change, message):
    batches = P.make_batches(0, 2, 3)
    method = neg_grad_plus(P.loss_fn, P.sgd())
    state = loop.init(method, P.make_params(), jax.random.key(0))
    with self.assertRaisesRegex(ValueError, message):
      loop.run(method, state, change(batches), batches)


class PrepareTest(absltest.TestCase):
  def test_without_prepare_nothing_changes(self):
    got = loop.prepare(METHOD, start(), None, retain_batches())
    P.assert_identical(got, start())

  def test_prepare_sees_the_sets_and_may_change_everything(
    self,
  ):
    def prepare(params, state, forget, retain, examples, key):
      total = loop.fold(
        lambda c, b: c + b['mask'].sum(), jnp.zeros(()), forget, examples
      )
      state = {'total': total, 'key': key, 'kernel': params['kernel']}
      return jax.tree.map(lambda x: 2 * x, params), state

    method = UnlearningMethod(lambda p, k: (), None, prepare)
    forget = batches.one_pass(np.arange(7), 3)
    want = start(method)
    state = loop.prepare(
      method, start(method), forget, None, P.make_examples(9)
    )
    self.assertEqual(state.method_state['total'], 7)
    P.assert_identical(state.method_state['key'], want.key)
    P.assert_identical(state.method_state['kernel'], want.params['kernel'])
    twice = jax.tree.map(lambda x: 2 * x, want.params)
    P.assert_identical(
      state.replace(method_state=()), want.replace(params=twice)
    )


if __name__ == '__main__':
  absltest.main()
