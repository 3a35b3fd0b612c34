"""Rules on a part of a network: what moves, what is kept, what a teacher is."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods import blocks
from unlearn_jax.methods.bad_teacher import bad_teacher
from unlearn_jax.methods.cf_k import cf_k
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.part import last_k
from unlearn_jax.methods.part import Whole
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.spec import Problem
from unlearn_jax.training import loop

LAYERS, WIDTH, STEPS = 3, 3, 4
BLOCKS = ('stem', *(f'layers[{i}]' for i in range(LAYERS)), 'head')


def init_fn(key):
  keys = jax.random.split(key, 4)
  normal = jax.random.normal
  return {
    'stem': {'kernel': normal(keys[0], (P.FEATURES, WIDTH))},
    'layers': {
      'kernel': normal(keys[1], (LAYERS, WIDTH, WIDTH)),
      'bias': normal(keys[2], (LAYERS, WIDTH)),
    },
    'head': {'kernel': normal(keys[3], (WIDTH, P.CLASSES))},
  }


def predict_fn(params, batch):
  x = batch['features'] @ params['stem']['kernel']
  stacks = params['layers']
  for stack in stacks if isinstance(stacks, tuple) else (stacks,):

    def layer(x, weights):
      return jnp.tanh(x @ weights['kernel'] + weights['bias'][None]), None

    x, _ = jax.lax.scan(layer, x, stack)
  return x @ params['head']['kernel']


def loss_fn(params, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    predict_fn(params, batch), batch['label']
  )


PROBLEM = Problem(
  loss_fn,
  predict_fn,
  init_fn,
  blocks=BLOCKS,
  stacks=('layers',),
)


def build(problem, tx):
  return fine_tune(problem.loss_fn, tx)


def run(method):
  params = init_fn(jax.random.key(0))
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 5, padding=1)
  state, metrics = P.run(method, params, forget, retain)
  return params, state, metrics


def rows_that_moved(before, after):
  return [bool((a != b).any()) for a, b in zip(before, after, strict=True)]


class LastKTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 4, 5)
  def test_moves_the_last_blocks_alone(self, k):
    method = last_k(build, PROBLEM, P.sgd(weight_decay=0.1), k=k)
    params, state, _ = run(method)
    moved = {
      'head': True,
      **{f'layers[{i}]': k > LAYERS - i for i in range(LAYERS)},
      'stem': k == 5,
    }
    for name in ('stem', 'head'):
      before, after = params[name]['kernel'], state.params[name]['kernel']
      self.assertEqual(bool((before != after).any()), moved[name])
    for leaf in ('kernel', 'bias'):
      self.assertEqual(
        rows_that_moved(params['layers'][leaf], state.params['layers'][leaf]),
        [moved[f'layers[{i}]'] for i in range(LAYERS)],
      )

  @parameterized.parameters(1, 2, 3, 4, 5)
  def test_takes_the_steps_of_cf_k(self, k):
    tx = optax.chain(
      optax.clip_by_global_norm(0.1), optax.adamw(0.1, weight_decay=0.1)
    )
    _, part, _ = run(last_k(build, PROBLEM, tx, k=k))
    _, whole, _ = run(cf_k(loss_fn, tx, blocks=BLOCKS, k=k))
    P.assert_close(part.params, whole.params)

  def test_the_backward_pass_ends_where_the_part_begins(self):
    def steps(k):
      method = last_k(build, PROBLEM, optax.sgd(0.1), k=k)
      params = init_fn(jax.random.key(0))
      state = loop.init(method, params, jax.random.key(0))
      batch = P.step_of(P.make_batches(2, 1, 5), 0)
      text = str(
        jax.make_jaxpr(functools.partial(loop.step, method))(state, None, batch)
      )
      return text.count('reverse=True')

    self.assertEqual(steps(1), 0)  # Only a scan backwards would be one.
    self.assertEqual(steps(2), 1)

  def test_what_a_rule_keeps_is_as_small_as_the_part(self):
    def build_scrub(problem, tx):
      return scrub(problem.loss_fn, problem.predict_fn, tx)

    method = last_k(build_scrub, PROBLEM, optax.adam(0.1), k=1)
    state = method.init(init_fn(jax.random.key(0)), jax.random.key(0))
    kept = sum(x.size for x in jax.tree.leaves(state.inner) if x.ndim)
    self.assertEqual(kept, 3 * WIDTH * P.CLASSES)  # Teacher, two moments.

  def test_blocks_count_from_the_part(self):
    def build_cf_k(problem, tx):
      return cf_k(problem.loss_fn, tx, blocks=problem.blocks, k=2)

    _, inside, _ = run(last_k(build_cf_k, PROBLEM, P.sgd(), k=3))
    _, alone, _ = run(cf_k(loss_fn, P.sgd(), blocks=BLOCKS, k=2))
    P.assert_close(inside.params, alone.params)

  @parameterized.parameters(0, 6)
  def test_k_out_of_bounds(self, k):
    with self.assertRaisesRegex(ValueError, r'k must be in \[1, 5\], got'):
      last_k(build, PROBLEM, P.sgd(), k=k)


class TeacherTest(parameterized.TestCase):
  def test_a_teacher_that_knows_nothing_is_a_whole_network(self):
    def build_bad_teacher(problem, tx):
      return bad_teacher(problem.predict_fn, problem.untrained_fn, tx)

    method = last_k(build_bad_teacher, PROBLEM, P.sgd(), k=2)
    params = init_fn(jax.random.key(0))
    state = method.init(params, jax.random.key(7))
    bad = state.inner.frozen['bad']
    self.assertIsInstance(bad, Whole)
    self.assertEqual(jax.tree.structure(bad.params), jax.tree.structure(params))
    self.assertTrue(P.differ(bad.params['stem'], params['stem']))
    _, after, _ = run(method)
    P.assert_identical(after.params['stem'], params['stem'])
    self.assertTrue(P.differ(after.params['head'], params['head']))


class RowsTest(parameterized.TestCase):
  def test_selected_rows(self):
    params = init_fn(jax.random.key(0))
    mask = blocks.selected(params, blocks.last_blocks(BLOCKS, 2))
    self.assertIs(mask['stem']['kernel'], False)
    self.assertIs(mask['head']['kernel'], True)
    np.testing.assert_array_equal(
      mask['layers']['bias'], [[False], [False], [True]]
    )
    self.assertEqual(mask['layers']['kernel'].shape, (LAYERS, 1, 1))
    mask = blocks.selected(params, blocks.last_blocks(BLOCKS, 4))
    self.assertIs(mask['layers']['kernel'], True)

  def test_patterns(self):
    select = blocks.matching('layers/.*kernel')
    self.assertTrue(select('layers/kernel'))
    self.assertFalse(select('layers/bias'))
    with self.assertRaisesRegex(ValueError, 'must be a regular expression'):
      blocks.matching('(')


if __name__ == '__main__':
  absltest.main()
