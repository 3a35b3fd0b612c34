"""Checkpoints: what comes back, and what the user is told if it cannot."""

import contextlib
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.random_label import random_label
from unlearn_jax.training import checkpoint
from unlearn_jax.training import loop
from unlearn_jax.types import InputError


def make_params():
  return {
    'conv': {'kernel': jnp.arange(6.0).reshape(1, 2, 3), 'bias': jnp.ones(3)},
    'half': jnp.asarray([0.1, -2.5], jnp.bfloat16),
    'count': jnp.asarray(3, jnp.int32),
  }


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)


class ParamsTest(FolderTest):
  def save(self, params=None, description=None):
    path = self.folder / 'model'
    params = make_params() if params is None else params
    checkpoint.save_params(path, params, description or {})
    return path

  def message(self, fun, *args):
    """The error, which must be one line."""
    with self.assertRaises(InputError) as caught:
      fun(*args)
    self.assertNotIn('\n', str(caught.exception))
    return str(caught.exception)

  def test_round_trip(self):
    path = self.save()
    like = jax.tree.map(jnp.zeros_like, make_params())
    P.assert_identical(checkpoint.load_params(path, like), make_params())

  def test_round_trip_of_lists_and_tuples(self):
    params = [jnp.ones(2), (jnp.zeros((2, 3)), jnp.arange(4))]
    path = self.save(params)
    like = jax.tree.map(jnp.zeros_like, params)
    P.assert_identical(checkpoint.load_params(path, like), params)

  def test_round_trip_of_trees_with_attributes(self):
    for params in (
      loop.RunState(jnp.ones(()), {'w': jnp.ones(2)}, (), jnp.zeros(3)),
      optax.EmaState(jnp.ones(()), [jnp.ones(2), jnp.zeros(1)]),
      nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
    ):
      path = self.save(params)
      got = checkpoint.load_params(path, jax.tree.map(jnp.zeros_like, params))
      P.assert_identical(got, params)

  def test_shapes_and_types_suffice(self):
    path = self.save()
    for like in (
      jax.eval_shape(make_params),
      jax.tree.map(np.asarray, make_params()),
    ):
      P.assert_identical(checkpoint.load_params(path, like), make_params())

  def test_description_round_trip(self):
    want = {'network': 'tc_resnet8', 'classes': ['yes', 'no'], 'bins': 40}
    want['recipe'] = {'epochs': 60, 'learning_rate': 1e-2, 'note': None}
    self.assertEqual(checkpoint.describe(self.save(description=want)), want)

  def test_no_description(self):
    self.assertEqual(checkpoint.describe(self.save()), {})

  def test_saving_again_replaces_both(self):
    self.save(description={'old': True})
    params = jax.tree.map(lambda x: x + 1, make_params())
    path = self.save(params, {'new': True})
    P.assert_identical(checkpoint.load_params(path, make_params()), params)
    self.assertEqual(checkpoint.describe(path), {'new': True})

  def test_relative_path(self):
    self.enterContext(contextlib.chdir(self.folder))
    path = pathlib.Path('model')
    checkpoint.save_params(path, make_params(), {'a': 1})
    self.assertEqual(checkpoint.describe(path), {'a': 1})
    P.assert_identical(
      checkpoint.load_params(path, make_params()), make_params()
    )

  def test_wrong_shape(self):
    path = self.save()
    like = make_params()
    like['conv']['kernel'] = jnp.zeros((1, 2, 5))
    want = f'checkpoint {path}: conv/kernel has shape (1, 2, 3), the '
    want += 'network needs (1, 2, 5).'
    self.assertEqual(self.message(checkpoint.load_params, path, like), want)

  def test_leaf_that_the_checkpoint_lacks(self):
    path = self.save()
    like = {**make_params(), 'head': jnp.zeros((3, 7))}
    want = f'checkpoint {path}: head has shape none, the network needs '
    want += '(3, 7).'
    self.assertEqual(self.message(checkpoint.load_params, path, like), want)

  def test_leaf_that_the_network_lacks(self):
    path = self.save()
    like = make_params()
    del like['half']
    want = f'checkpoint {path}: half has shape (2,), the network needs '
    want += 'none.'
    self.assertEqual(self.message(checkpoint.load_params, path, like), want)

  @parameterized.parameters('absent', 'empty', 'junk', 'file')
  def test_not_a_checkpoint(self, name):
    (self.folder / 'empty').mkdir()
    (self.folder / 'junk').mkdir()
    (self.folder / 'junk' / 'a.txt').write_text('not a model')
    (self.folder / 'file').write_text('not a model')
    path = self.folder / name
    for fun, args in (
      (checkpoint.describe, (path,)),
      (checkpoint.load_params, (path, make_params())),
    ):
      message = self.message(fun, *args)
      self.assertStartsWith(message, f'checkpoint {path}: not a checkpoint (')
      self.assertEndsWith(
        message, '; expected a folder that a training run wrote.'
      )

  def test_error_of_many_lines(self):
    error = RuntimeError('first line\nsecond line')
    with mock.patch.object(checkpoint.ocp, 'metadata', side_effect=error):
      message = self.message(checkpoint.describe, self.folder / 'model')
    self.assertIn('(first line)', message)

  def test_full_disk_is_an_os_error_that_names_the_folder(self):
    text = "Failed to write: No space left on device [os_error_code='28']"
    for error, kind, message in (
      (ValueError(text), OSError, 'No space left.*model'),
      (ValueError('x'), ValueError, '^x$'),
    ):
      with mock.patch.object(checkpoint.ocp, 'save', side_effect=error):
        with self.assertRaisesRegex(kind, message):
          self.save()


class RunCheckpointsTest(FolderTest):
  def open(self):
    store = checkpoint.RunCheckpoints(self.folder / 'run')
    self.addCleanup(store.close)
    return store

  def make_state(self, key=0):
    method = random_label(P.loss_fn, P.predict_fn, optax.adamw(1e-3))
    return loop.init(method, P.make_params(key), jax.random.key(key))

  def test_nothing_there_yet(self):
    self.assertIsNone(self.open().restore(self.make_state()))

  def test_run_state_round_trip(self):
    # Typed keys, the state of optax, hyper-parameters and a step count.
    state = self.make_state(1)
    state = state.replace(step=jnp.asarray(41, jnp.int32))
    tree = {'state': state, 'kept': ()}
    progress = {'curves': {'loss': [0.25, 1 / 3]}, 'run_s': 0.1, 'steps': 41}
    store = self.open()
    store.save(7, tree, progress)
    like = {'state': self.make_state(2), 'kept': ()}
    for source in (store, self.open()):
      epoch, got, same = source.restore(like)
      self.assertEqual((epoch, same), (7, progress))
      P.assert_identical(got, tree)
    self.assertTrue(jnp.issubdtype(got['state'].key.dtype, jax.dtypes.prng_key))

  def test_restored_key_draws_the_same(self):
    store = self.open()
    store.save(1, self.make_state(3), {})
    _, got, _ = store.restore(self.make_state(4))
    P.assert_identical(
      jax.random.normal(got.key, (3,)),
      jax.random.normal(self.make_state(3).key, (3,)),
    )

  def test_only_the_latest_is_kept(self):
    store = self.open()
    for epoch in (1, 2, 5):
      store.save(epoch, {'x': jnp.full(2, float(epoch))}, {'epoch': epoch})
    store.close()
    left = [p.name for p in (self.folder / 'run').iterdir() if p.is_dir()]
    self.assertEqual(left, ['5'])
    epoch, got, progress = self.open().restore({'x': jnp.zeros(2)})
    self.assertEqual((epoch, progress), (5, {'epoch': 5}))
    P.assert_identical(got, {'x': jnp.full(2, 5.0)})


if __name__ == '__main__':
  absltest.main()
