"""CF-k and EU-k: which blocks move, where they start, and the limits."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.cf_k import cf_k
from unlearn_jax.methods.cf_k import cf_k_direction
from unlearn_jax.methods.eu_k import eu_k
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.retrain import retrain
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import Recipe

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
BLOCKS = ('kernel', 'bias')  # The smallest network has two leaves.
HIDDEN = ('norm', 'hidden', 'head')


def predict_fn(params, batch):
  """One hidden layer, after a standardisation whose statistics are leaves."""
  norm = params['norm']
  x = (batch['features'] - norm['mean'][None]) * norm['scale'][None]
  hidden = params['hidden']
  return P.predict_fn(
    params['head'],
    {'features': jnp.tanh(x @ hidden['kernel'] + hidden['bias'][None])},
  )


def init_fn(key):
  hidden_key, head_key, norm_key = jax.random.split(key, 3)
  size = (P.FEATURES, P.FEATURES)
  return {
    'norm': {
      'mean': 0.1 * jax.random.normal(norm_key, size[:1]),
      'scale': jnp.ones(size[:1]),
    },
    'hidden': {
      'kernel': jax.random.normal(hidden_key, size),
      # A zero with a sign, which adding 0 would lose.
      'bias': jnp.full(size[:1], -0.0),
    },
    'head': P.init_fn(head_key),
  }


loss_fn = P.cross_entropy(predict_fn)


def augment(key, batch):
  noise = jax.random.normal(key, batch['features'].shape)
  return {**batch, 'features': batch['features'] + 0.3 * noise}


def make_retain():
  return P.make_batches(2, STEPS, 7, padding=2)


def fresh_of(init, key):
  """What a run of this key starts from."""
  return init(jax.random.split(jax.random.key(key))[0])


@functools.cache
def make(name, k, deep=False):
  loss, init, names = (
    (loss_fn, init_fn, HIDDEN) if deep else (P.loss_fn, P.init_fn, BLOCKS)
  )
  tx = P.sgd(**HEAVY)
  if name == 'cf_k':
    return cf_k(loss, tx, blocks=names, k=k)
  return eu_k(loss, tx, init, blocks=names, k=k)


def twin_bias_run(start, retain):
  """Trains the bias alone; the decay is of the bias alone too."""
  decay = HEAVY['weight_decay']

  def gradient(p, k):
    bias = P.twin_loss_gradient(p, P.step_of(retain, k))['bias']
    return {
      'kernel': np.zeros_like(p['kernel']),
      'bias': bias + decay * p['bias'],
    }

  rest = {**HEAVY, 'weight_decay': 0.0}
  return P.twin_run(gradient, start, STEPS, **rest)


def assert_same_bits(got, want):
  """Signs of zeros included."""
  P.assert_identical(got, want)
  signs = [jax.tree.map(np.signbit, tree) for tree in (got, want)]
  P.assert_identical(*signs)


class CfKTest(parameterized.TestCase):
  def test_direction_equals_closed_form(self):
    params, batch = P.make_params(), P.step_of(make_retain(), 0)
    got, metrics = cf_k_direction(
      params, batch, loss_fn=P.loss_fn, select=lambda path: path == 'bias'
    )
    theta = P.as_float64(params)
    want = P.twin_loss_gradient(theta, batch)
    P.assert_close(got, {**want, 'kernel': 0.0 * want['kernel']})
    loss = P.twin_losses(theta, P.real_rows(batch)).mean()
    np.testing.assert_allclose(metrics['retain_loss'], loss, rtol=1e-6)

  def test_run_equals_twin(self):
    params, retain = P.make_params(), make_retain()
    state, _ = P.run(make('cf_k', 1), params, None, retain)
    P.assert_close(state.params, twin_bias_run(params, retain))

  @parameterized.product(deep=(False, True))
  def test_k_of_all_blocks_equals_fine_tune(self, deep):
    retain = make_retain()
    loss, init, names = (
      (loss_fn, init_fn, HIDDEN) if deep else (P.loss_fn, P.init_fn, BLOCKS)
    )
    params = init(jax.random.key(0))
    got, metrics = P.run(make('cf_k', len(names), deep), params, None, retain)
    want, same = P.run(fine_tune(loss, P.sgd(**HEAVY)), params, None, retain)
    P.assert_identical(got.params, want.params)
    P.assert_identical(metrics, same)


class EuKTest(parameterized.TestCase):
  def test_run_equals_twin(self):
    params, retain = P.make_params(9), make_retain()
    state, _ = P.run(make('eu_k', 1), params, None, retain, key=3)
    start = {**params, 'bias': fresh_of(P.init_fn, 3)['bias']}
    P.assert_close(state.params, twin_bias_run(start, retain))

  def test_k_of_all_blocks_equals_retrain_for_the_same_key(self):
    retain, params = make_retain(), init_fn(jax.random.key(9))
    tx = Recipe(learning_rate=0.1).optimizer()
    methods = (
      eu_k(loss_fn, tx, init_fn, blocks=HIDDEN, k=3, augment_fn=augment),
      retrain(loss_fn, tx, init_fn, augment),
    )
    (got, metrics), (want, same) = (
      loop.run(
        method,
        optax.tree_utils.tree_set(
          loop.init(method, params, jax.random.key(3)),
          total_steps=jnp.float32(STEPS),
        ),
        None,
        retain,
      )
      for method in methods
    )
    P.assert_identical(got.params, want.params)
    P.assert_identical(metrics, same)

  def test_last_blocks_are_fresh_and_the_first_the_original(self):
    params, retain = init_fn(jax.random.key(9)), make_retain()
    method = eu_k(loss_fn, P.sgd(0.0), init_fn, blocks=HIDDEN, k=2)
    state, _ = P.run(method, params, None, retain, key=3)
    fresh = fresh_of(init_fn, 3)
    P.assert_identical(state.params, {**fresh, 'norm': params['norm']})
    self.assertTrue(P.differ(params['head'], fresh['head']))

  def test_no_steps_are_the_identity(self):
    params, retain = P.make_params(), make_retain()
    none = jax.tree.map(lambda x: x[:0], retain)
    state, _ = P.run(make('eu_k', 1), params, None, none)
    P.assert_identical(state.params, params)

  def test_what_the_last_blocks_were_does_not_matter(self):
    retain, params = make_retain(), P.make_params()
    method = make('eu_k', 1)
    lost = {**params, 'bias': jnp.full_like(params['bias'], jnp.nan)}
    got, want = (P.run(method, p, None, retain)[0] for p in (lost, params))
    P.assert_identical(got.params, want.params)

  def test_a_run_cut_in_two_starts_afresh_once(self):
    params, retain = P.make_params(), make_retain()
    method = make('eu_k', 1)
    whole, _ = P.run(method, params, None, retain)
    state = loop.init(method, params, jax.random.key(0))
    for part in (slice(0, STEPS // 2), slice(STEPS // 2, STEPS)):
      piece = jax.tree.map(lambda x, part=part: x[part], retain)
      state, _ = loop.run(method, state, None, piece)
    P.assert_identical(state, whole)

  def test_reads_the_augmented_batch_with_a_key_of_each_step(self):
    same = P.steps_of(make_retain(), [0] * STEPS)
    method = eu_k(
      P.loss_fn, P.sgd(0.0), P.init_fn, blocks=BLOCKS, augment_fn=augment
    )
    _, metrics = P.run(method, P.make_params(), None, same)
    self.assertEqual(np.unique(metrics['retain_loss']).size, STEPS)

  def test_fresh_weights_take_the_type_of_the_parameters(self):
    params, retain = P.make_params(), make_retain()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    state, _ = P.run(make('eu_k', 1), half, None, retain)
    for leaf in jax.tree.leaves(state.params):
      self.assertEqual(leaf.dtype, jnp.bfloat16)
    self.assertTrue(P.differ(state.params['bias'], half['bias']))

  def test_vmap_over_keys_equals_separate_runs(self):
    params, retain = P.make_params(), make_retain()
    method, keys = make('eu_k', 1), jax.random.split(jax.random.key(5), 3)
    states = jax.vmap(lambda key: loop.init(method, params, key))(keys)
    many, _ = jax.vmap(lambda s: loop.run(method, s, None, retain))(states)
    for k, key in enumerate(keys):
      one, _ = loop.run(method, loop.init(method, params, key), None, retain)
      P.assert_close(P.step_of(many.params, k), one.params)
    self.assertEqual(np.unique(many.params['bias'][:, 0]).size, 3)


@parameterized.parameters('cf_k', 'eu_k')
class BothTest(parameterized.TestCase):
  def test_frozen_blocks_stay_bit_for_bit_under_decay_and_momentum(self, name):
    params, retain = init_fn(jax.random.key(0)), make_retain()
    state, _ = P.run(make(name, 1, deep=True), params, None, retain)
    for frozen in ('norm', 'hidden'):
      assert_same_bits(state.params[frozen], params[frozen])
    self.assertTrue(P.differ(state.params['head'], params['head']))

  def test_statistics_of_a_frozen_normalisation_stay(self, name):
    # They are leaves like any other; with every block trained they do move.
    params, retain = init_fn(jax.random.key(0)), make_retain()
    two, three = (
      P.run(make(name, k, deep=True), params, None, retain)[0].params
      for k in (2, 3)
    )
    assert_same_bits(two['norm'], params['norm'])
    self.assertTrue(P.differ(two['hidden'], params['hidden']))
    self.assertTrue(P.differ(three['norm'], params['norm']))

  def test_behind_the_mask_and_in_the_forget_batch_nothing_counts(self, name):
    params, retain = P.make_params(), make_retain()
    want, _ = P.run(make(name, 1), params, None, retain)
    poison = {**retain, 'features': jnp.nan * retain['features']}
    other = P.nonsense(retain, -7)
    other['features'] /= other['mask'][..., None]  # Infinite, then.
    got, _ = P.run(make(name, 1), params, poison, other)
    P.assert_identical(got, want)

  def test_bounds(self, name):
    for k in (0, 3, float('nan')):
      message = rf'k must be in \[1, 2\], got {k}'
      with self.assertRaisesRegex(ValueError, message):
        make(name, k)

  def test_blocks_of_another_network(self, name):
    rule = {
      'cf_k': lambda: cf_k(P.loss_fn, P.sgd(), blocks=('Dense_0',)),
      'eu_k': lambda: eu_k(P.loss_fn, P.sgd(), P.init_fn, blocks=('Dense_0',)),
    }[name]()
    with self.assertRaisesRegex(ValueError, 'blocks must name parameters'):
      rule.init(P.make_params(), jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
