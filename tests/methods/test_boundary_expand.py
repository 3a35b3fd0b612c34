"""Boundary expand against its NumPy twin, and against a wider network."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.boundary_expand import boundary_expand
from unlearn_jax.methods.boundary_expand import boundary_expand_direction
from unlearn_jax.methods.boundary_expand import expanded_logits
from unlearn_jax.methods.boundary_expand import init_column
from unlearn_jax.training import loop

STEPS = 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
EXPAND = boundary_expand(P.predict_fn, P.sgd(**HEAVY), head='')


def setup():
  return P.make_params(), P.make_batches(1, STEPS, 5, padding=1)


def poisoned(stacked):
  """Nothing finite stands behind the mask, and labels that are none."""
  keep = stacked['mask'][..., None] > 0
  other = P.nonsense(stacked, -7)
  return {**other, 'features': jnp.where(keep, other['features'], jnp.nan)}


def deep_init(key, dtype=jnp.float32):
  """A network of two layers whose head is not the whole of it."""
  keys = jax.random.split(key)
  return {
    'body': {'kernel': jax.random.normal(keys[0], (P.FEATURES, 6), dtype)},
    'head': {
      'kernel': jax.random.normal(keys[1], (6, P.CLASSES), dtype),
      'bias': jnp.arange(P.CLASSES, dtype=dtype),
    },
    'head_norm': jnp.ones(6, dtype),
  }


def deep_logits(params, batch):
  features = batch['features'].astype(params['head_norm'].dtype)
  hidden = jnp.tanh(features @ params['body']['kernel'])
  hidden = hidden * params['head_norm'][None]
  return hidden @ params['head']['kernel'] + params['head']['bias'][None]


def widened(params, extra):
  """The same network with one more output."""
  column = {
    'kernel': extra['head/kernel'][:, None],
    'bias': extra['head/bias'][None],
  }
  head = {
    name: jnp.concatenate([leaf, column[name]], -1)
    for name, leaf in params['head'].items()
  }
  return {**params, 'head': head}


class ExpandTest(parameterized.TestCase):
  def test_run_equals_twin_of_one_more_class(self):
    params, forget = setup()
    state = loop.init(EXPAND, params, jax.random.key(2))
    start = {
      name: jnp.concatenate(
        [leaf, state.method_state.extra[name][..., None]], -1
      )
      for name, leaf in params.items()
    }
    state, metrics = loop.run(EXPAND, state, forget, None)

    def relabelled(k):
      batch = P.step_of(forget, k)
      return {**batch, 'label': jnp.full_like(batch['label'], P.CLASSES)}

    want = P.twin_run(
      lambda theta, k: P.twin_loss_gradient(theta, relabelled(k)),
      start,
      STEPS,
      **HEAVY,
    )
    P.assert_close(
      state.params, {name: x[..., : P.CLASSES] for name, x in want.items()}
    )
    P.assert_close(
      state.method_state.extra, {n: x[..., P.CLASSES] for n, x in want.items()}
    )
    first = P.twin_losses(P.as_float64(start), P.real_rows(relabelled(0)))
    np.testing.assert_allclose(
      metrics['expanded_loss'][0], first.mean(), rtol=1e-5
    )

  def test_logits_and_gradient_are_those_of_the_widened_network(self):
    params = deep_init(jax.random.key(0))
    extra = {
      'head/kernel': jnp.linspace(-1, 1, 6),
      'head/bias': jnp.float32(0.3),
    }
    batch = P.step_of(P.make_batches(1, 1, 5), 0)
    got = expanded_logits(
      params, extra, batch, predict_fn=deep_logits, head='head'
    )
    want = deep_logits(widened(params, extra), batch)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    gradient, _ = boundary_expand_direction(
      params, extra, batch, predict_fn=deep_logits, head='head'
    )

    def objective(pair):
      logits = deep_logits(widened(*pair), batch)
      return -jax.nn.log_softmax(logits)[:, P.CLASSES].mean()

    P.assert_close(gradient, jax.grad(objective)((params, extra)))

  def test_zero_steps_then_drop_is_the_identity(self):
    params, forget = setup()
    none = jax.tree.map(lambda x: x[:0], forget)
    state = loop.init(EXPAND, params, jax.random.key(0))
    state, _ = loop.run(EXPAND, state, none, None)
    P.assert_identical(state.params, params)

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  def test_after_the_drop_the_head_has_its_rows_and_types(self, dtype):
    params = deep_init(jax.random.key(0), dtype)
    _, forget = setup()
    method = boundary_expand(deep_logits, P.sgd(**HEAVY), head='head')
    state, _ = P.run(method, params, forget, None)
    for got, old in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
    ):
      self.assertEqual((got.shape, got.dtype), (old.shape, old.dtype))
      self.assertTrue(np.isfinite(np.float32(got)).all())
      self.assertTrue((got != old).any())
    kernel = state.method_state.extra['head/kernel']
    self.assertEqual((kernel.shape, kernel.dtype), ((6,), dtype))

  def test_neither_labels_nor_padding_change_anything(self):
    params, forget = setup()
    want = P.run(EXPAND, params, forget, None)
    other = poisoned(forget)
    other['label'] = (other['label'] + 1) % P.CLASSES
    P.assert_identical(P.run(EXPAND, params, other, None), want)

  def test_column_starts_as_glorot_has_it_with_a_bias_of_zero(self):
    params = {'head': {'kernel': jnp.ones((3000, 999)), 'bias': jnp.ones(999)}}
    one, two = (init_column(params, 'head', jax.random.key(k)) for k in (0, 1))
    self.assertEqual(one['head/bias'], 0.0)
    std = np.std(one['head/kernel'])
    np.testing.assert_allclose(std, np.sqrt(2 / 4000), rtol=0.05)
    self.assertTrue((one['head/kernel'] != two['head/kernel']).all())

  def test_heads_that_are_none(self):
    params = deep_init(jax.random.key(0))
    _, forget = setup()
    for head, message in (
      ('hea', "head must name parameters, and 'hea' names none"),
      ('', 'must end in one axis of classes, got'),
    ):
      method = boundary_expand(deep_logits, P.sgd(), head=head)
      with self.assertRaisesRegex(ValueError, message):
        loop.init(method, params, jax.random.key(0))
    method = boundary_expand(deep_logits, P.sgd(), head='body')
    message = 'head must have an output for each of 3 classes, got 6'
    with self.assertRaisesRegex(ValueError, message):
      P.run(method, params, forget, None)


if __name__ == '__main__':
  absltest.main()
