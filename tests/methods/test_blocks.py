"""Blocks of a network: which parameters they name, and what trains them."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods import blocks
from unlearn_jax.models import registry

NAMES = ('Dense_1', 'Dense_2', 'Dense_10')
KERNELS = ('Dense_10/kernel', 'Dense_2/kernel')


def make_params():
  """Three layers; the last is named so that the first is its prefix."""
  keys = jax.random.split(jax.random.key(0), len(NAMES))
  return {
    name: {
      'kernel': jax.random.normal(key, (4, 4)),
      'bias': jnp.asarray([0.5, -0.0, 0.0, -1.0]),
    }
    for name, key in zip(NAMES, keys, strict=True)
  }


def predict_fn(params, batch):
  x = batch['features']
  for name in NAMES:
    x = jnp.tanh(x @ params[name]['kernel'] + params[name]['bias'][None])
  return x


loss_fn = P.cross_entropy(predict_fn)


def paths_where(tree):
  return {
    blocks.path_of(path) for path, x in jax.tree.leaves_with_path(tree) if x
  }


def gradient(params, loss, batch):
  return jax.grad(lambda p: loss(p, batch).mean())(params)


class PathTest(parameterized.TestCase):
  @parameterized.parameters(
    ('Dense_1/kernel', 'Dense_1', True),
    ('Dense_10/kernel', 'Dense_1', False),
    ('Dense_1', 'Dense_1', True),
    ('encoder/layer_3/bias', 'encoder/layer_3', True),
    ('encoder/layer_3/bias', 'encoder', True),
    ('encoder/layer_3/bias', 'layer_3', False),
  )
  def test_in_block(self, path, block, want):
    self.assertEqual(blocks.in_block(path, block), want)

  def test_paths_of_dicts_lists_and_tuples(self):
    tree = [{'a': 1}, (2, {'b': 3})]
    self.assertEqual(paths_where(tree), {'0/a', '1/0', '1/1/b'})


class LastBlocksTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_selects_the_last_k_blocks(self, k):
    mask = blocks.selected(make_params(), blocks.last_blocks(NAMES, k))
    want = {f'{n}/{leaf}' for n in NAMES[-k:] for leaf in ('kernel', 'bias')}
    self.assertEqual(paths_where(mask), want)

  @parameterized.parameters(0, 4, -1, float('nan'))
  def test_bounds(self, k):
    with self.assertRaisesRegex(ValueError, rf'k must be in \[1, 3\], got {k}'):
      blocks.last_blocks(NAMES, k)

  def test_a_network_without_blocks(self):
    with self.assertRaisesRegex(ValueError, 'blocks must name at least one'):
      blocks.last_blocks((), 1)

  def test_blocks_that_name_no_parameters(self):
    select = blocks.last_blocks(('Conv_0',), 1)
    with self.assertRaisesRegex(ValueError, 'name none of them'):
      blocks.selected(make_params(), select)

  @parameterized.parameters(*[(name,) for name in registry.NETWORKS])
  def test_every_parameter_of_a_network_is_in_one_block(self, name):
    network = registry.build(name, 5, (40, 40))
    params = jax.eval_shape(network.init_fn, jax.random.key(0))
    named = dict.fromkeys(network.blocks, 0)
    for path, _ in jax.tree.leaves_with_path(params):
      path = blocks.path_of(path)
      owners = [b for b in network.blocks if blocks.in_block(path, b)]
      self.assertLen(owners, 1, path)
      named[owners[0]] += 1
    self.assertGreater(min(named.values()), 0)


class TrainingTest(parameterized.TestCase):
  def test_choose(self):
    params = make_params()
    other = jax.tree.map(lambda x: x + 1, params)
    mask = blocks.selected(params, blocks.last_blocks(NAMES, 1))
    got = blocks.choose(mask, other, params)
    P.assert_identical(got['Dense_10'], other['Dense_10'])
    P.assert_identical(got['Dense_2'], params['Dense_2'])

  def test_gradient_is_that_of_the_selection_and_zero_elsewhere(self):
    params, batch = make_params(), P.make_examples(6)
    restricted = blocks.stop_elsewhere(loss_fn, lambda path: path in KERNELS)
    np.testing.assert_array_equal(
      restricted(params, batch), loss_fn(params, batch)
    )
    got, whole = (gradient(params, f, batch) for f in (restricted, loss_fn))
    for path, g in jax.tree.leaves_with_path(got):
      path = blocks.path_of(path)
      name, leaf = path.split('/')
      self.assertTrue(np.asarray(whole[name][leaf]).any())
      if path in KERNELS:
        np.testing.assert_allclose(g, whole[name][leaf], rtol=1e-6, atol=1e-7)
      else:
        np.testing.assert_array_equal(g, jnp.zeros_like(g))

  @parameterized.parameters((1, 4), (2, 6), (3, 8))
  def test_backward_pass_ends_where_the_selection_begins(self, k, products):
    # Three products forward; backward one for each kernel, and one for the
    # input of each layer that stands above a trained one.
    restricted = blocks.stop_elsewhere(loss_fn, blocks.last_blocks(NAMES, k))
    program = jax.make_jaxpr(lambda p, b: gradient(p, restricted, b))(
      make_params(), P.make_examples(6)
    )
    self.assertEqual(str(program).count('dot_general['), products)

  def test_rest_stays_bit_for_bit_under_decay_and_momentum(self):
    params = make_params()
    select = blocks.last_blocks(NAMES, 1)
    tx = blocks.train_only(P.sgd(0.3, momentum=0.9, weight_decay=0.1), select)

    # A gradient that is not 0 elsewhere does not get through either. Not
    # compiled: a compiler may drop the addition of a zero.
    ones, got, state = (
      jax.tree.map(jnp.ones_like, params),
      params,
      tx.init(params),
    )
    for _ in range(2):
      updates, state = tx.update(ones, state, got)
      got = optax.apply_updates(got, updates)
    for name in NAMES[:-1]:
      P.assert_identical(got[name], params[name])
      np.testing.assert_array_equal(
        np.signbit(got[name]['bias']), np.signbit(params[name]['bias'])
      )
    self.assertTrue(P.differ(got['Dense_10'], params['Dense_10']))

  def test_norm_that_is_clipped_is_that_of_the_selection(self):
    params = make_params()
    ones = jax.tree.map(jnp.ones_like, params)
    tx = blocks.train_only(
      optax.clip_by_global_norm(1.0), blocks.last_blocks(NAMES, 1)
    )
    updates, _ = tx.update(ones, tx.init(params), params)
    norm = optax.tree_utils.tree_norm(updates['Dense_10'])
    np.testing.assert_allclose(norm, 1.0, rtol=1e-6)

  def test_learning_rate_in_the_state_can_be_set(self):
    params = make_params()
    tx = blocks.train_only(
      optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
      blocks.last_blocks(NAMES, 1),
    )
    state = optax.tree_utils.tree_set(
      tx.init(params), learning_rate=jnp.float32(2.0)
    )
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_array_equal(updates['Dense_10']['bias'], [-2.0] * 4)


if __name__ == '__main__':
  absltest.main()
