"""A member of a population is what it would be alone."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.ssd import ssd
from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.populations.train import Execution
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.training.step import descend
from unlearn_jax.types import InputError

EXAMPLES = P.make_examples(40)
SEEDS = (3, 1, 4, 15, 9)
ROWS = [np.arange(40)[i : 20 + 3 * i] for i in range(len(SEEDS))]
EPOCHS, BATCH = 3, 7
RECIPE = Recipe(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.05)


def augment(key, batch):
  noise = jax.random.normal(key, batch['features'].shape)
  return {**batch, 'features': batch['features'] + 0.3 * noise}


METHOD = descend(P.loss_fn, RECIPE.optimizer(), augment)
BOTH = neg_grad_plus(P.loss_fn, P.sgd(0.1, 0.9, 0.1))
EDIT = ssd(P.loss_fn)


def train_all(**execution):
  return train.train_population(
    METHOD,
    P.init_fn,
    ROWS,
    SEEDS,
    EXAMPLES,
    epochs=EPOCHS,
    batch_size=BATCH,
    execution=Execution(**execution),
  )


def train_alone(member):
  key = jax.random.key(SEEDS[member])
  state = loop.init(METHOD, P.init_fn(key), key)
  state = set_total_steps(state, RECIPE.steps(len(ROWS[member])))
  for epoch in range(EPOCHS):
    rng = np.random.default_rng([SEEDS[member], epoch])
    made = batches.one_pass(ROWS[member], BATCH, rng)
    state, _ = loop.run(METHOD, state, None, made, EXAMPLES)
  return state.params


def member_batches(member, epoch):
  rng = np.random.default_rng([SEEDS[member], epoch])
  rows = ROWS[member]
  retain = batches.one_pass(rows[5:], BATCH, rng)
  return batches.repeat(rows[:5], 3, len(retain.rows), rng), retain


def prepare_batches(member):
  rows = ROWS[member]
  return batches.one_pass(rows[:5], 3), batches.one_pass(rows[5:], BATCH)


def unlearn_all(method, epochs=2, **execution):
  return train.unlearn_population(
    method,
    train_all(),
    member_batches,
    SEEDS,
    EXAMPLES,
    epochs=epochs,
    prepare_batches=prepare_batches,
    execution=Execution(**execution),
  )


class TrainTest(parameterized.TestCase):
  @parameterized.product(chunk=(1, 2, 8), strategy=('map', 'vmap'))
  def test_equals_the_models_trained_alone(self, chunk, strategy):
    params = train_all(chunk=chunk, strategy=strategy)
    for member in range(len(SEEDS)):
      P.assert_close(
        jax.tree.map(lambda x, m=member: x[m], params),
        train_alone(member),
        rtol=1e-5,
      )

  def test_by_map_does_not_depend_on_the_chunk_to_the_last_bit(self):
    one, many = train_all(chunk=1), train_all(chunk=3)
    jax.tree.map(np.testing.assert_array_equal, one, many)

  def test_reports_member_epochs(self):
    seen = []
    train_all(chunk=3, on_epoch=lambda done, total: seen.append((done, total)))
    self.assertEqual([d for d, _ in seen], [3, 6, 9, 9, 11, 13, 15, 15])
    self.assertEqual({t for _, t in seen}, {15})


class UnlearnTest(parameterized.TestCase):
  @parameterized.parameters('map', 'vmap')
  def test_equals_each_alone(self, strategy):
    params = unlearn_all(BOTH, chunk=2, strategy=strategy)
    originals = train_all()
    for member in range(len(SEEDS)):
      start = jax.tree.map(lambda x, m=member: jnp.asarray(x[m]), originals)
      state = loop.init(BOTH, start, jax.random.key(SEEDS[member]))
      for epoch in range(2):
        made = member_batches(member, epoch)
        state, _ = loop.run(BOTH, state, *made, EXAMPLES)
      P.assert_close(
        jax.tree.map(lambda x, m=member: x[m], params), state.params, rtol=1e-5
      )

  @parameterized.parameters('map', 'vmap')
  def test_edits_in_prepare(self, strategy):
    params = unlearn_all(EDIT, epochs=0, chunk=2, strategy=strategy)
    originals = train_all()
    for member in range(len(SEEDS)):
      start = jax.tree.map(lambda x, m=member: jnp.asarray(x[m]), originals)
      state = loop.init(EDIT, start, jax.random.key(SEEDS[member]))
      made = prepare_batches(member)
      state = loop.prepare(EDIT, state, *made, EXAMPLES)
      P.assert_close(
        jax.tree.map(lambda x, m=member: x[m], params), state.params, rtol=1e-5
      )


class ResumeTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = tempfile.TemporaryDirectory()
    self.addCleanup(temporary.cleanup)
    self.folder = pathlib.Path(temporary.name)

  def test_repeats_at_most_the_chunk_that_was_cut(self):
    def stop(done, _):
      if done == 8:  # In the second chunk.
        raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      train_all(chunk=2, folder=self.folder, on_epoch=stop)
    seen = []
    params = train_all(
      chunk=2, folder=self.folder, on_epoch=lambda d, _: seen.append(d)
    )
    self.assertEqual(seen[:2], [6, 8])
    jax.tree.map(np.testing.assert_array_equal, params, train_all(chunk=2))

  def test_refuses_an_edit_of_other_sets_or_of_other_models(self):
    how = {'execution': Execution(chunk=5, folder=self.folder)}
    args = member_batches, SEEDS, EXAMPLES
    how |= {'epochs': 0, 'prepare_batches': prepare_batches}
    params = train_all()
    first = train.unlearn_population(EDIT, params, *args, **how)
    again = train.unlearn_population(EDIT, params, *args, **how)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    others = jax.tree.map(lambda x: x + 1, params)
    with self.assertRaisesRegex(InputError, 'another population'):
      train.unlearn_population(EDIT, others, *args, **how)
    how['prepare_batches'] = lambda m: prepare_batches((m + 1) % len(SEEDS))
    with self.assertRaisesRegex(InputError, 'another population'):
      train.unlearn_population(EDIT, params, *args, **how)

  def test_refuses_the_chunks_of_another_population(self):
    train_all(chunk=5, folder=self.folder)
    with self.assertRaisesRegex(InputError, 'another population'):
      unlearn_all(BOTH, chunk=5, folder=self.folder)


class LogitsTest(parameterized.TestCase):
  @parameterized.product(strategy=('map', 'vmap'), batch_size=(7, 40, 64))
  def test_are_those_of_each_member(self, strategy, batch_size):
    params = train_all()
    found = program.logits(
      P.predict_fn,
      params,
      EXAMPLES,
      batch_size=batch_size,
      strategy=strategy,
    )
    self.assertEqual(found.shape, (len(SEEDS), 40, P.CLASSES))
    for member, got in enumerate(found):
      own = jax.tree.map(lambda x, m=member: x[m], params)
      want = P.predict_fn(own, EXAMPLES)
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


class BoundsTest(absltest.TestCase):
  def test_chunk(self):
    with self.assertRaisesRegex(ValueError, 'chunk must be a multiple of 1'):
      Execution(chunk=0)

  def test_strategy(self):
    with self.assertRaisesRegex(ValueError, "map or vmap, got 'pmap'"):
      train_all(strategy='pmap')

  def test_rows_and_seeds(self):
    with self.assertRaisesRegex(ValueError, 'must have 1 members, one a seed'):
      train.train_population(
        METHOD, P.init_fn, ROWS, [0], EXAMPLES, epochs=1, batch_size=2
      )

  def test_no_rows(self):
    with self.assertRaisesRegex(ValueError, 'must have training rows'):
      train.train_population(
        METHOD, P.init_fn, [ROWS[0][:0]], [0], EXAMPLES, epochs=1, batch_size=2
      )

  def test_prepare_without_batches(self):
    with self.assertRaisesRegex(ValueError, 'needs prepare_batches'):
      train.unlearn_population(
        EDIT, train_all(), member_batches, SEEDS, EXAMPLES, epochs=0
      )


if __name__ == '__main__':
  absltest.main()
