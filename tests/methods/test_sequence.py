"""One rule after another: where the later ones begin, and when."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.retrain import retrain
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.sequence import sequence
from unlearn_jax.training import loop

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
ASCENT = gradient_ascent(P.loss_fn, P.sgd(**HEAVY))
REPAIR = fine_tune(P.loss_fn, P.sgd(**HEAVY))
PAIR = sequence((ASCENT, REPAIR), (2,))


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  return P.make_params(), forget, P.make_batches(2, STEPS, 7, padding=2)


def twin(params, forget, retain, switch):
  """Ascent, and from `switch` on fine-tuning with a fresh momentum."""
  between = P.twin_run(
    lambda p, k: P.add((-1.0, P.twin_loss_gradient(p, P.step_of(forget, k)))),
    params,
    switch,
    **HEAVY,
  )
  return P.twin_run(
    lambda p, k: P.twin_loss_gradient(p, P.step_of(retain, k + switch)),
    between,
    STEPS - switch,
    **HEAVY,
  )


def set_steps(state, *steps):
  return state.replace(
    method_state=state.method_state._replace(steps=jnp.asarray(steps))
  )


class SequenceTest(parameterized.TestCase):
  def test_one_rule_alone_equals_that_rule(self):
    params, forget, retain = setup()
    inner = random_label(P.loss_fn, P.predict_fn, P.sgd(**HEAVY))
    got, metrics = P.run(sequence((inner,), ()), params, forget, retain)
    want, same = P.run(inner, params, forget, retain)
    P.assert_identical(got.params, want.params)
    P.assert_identical(metrics, same)
    P.assert_identical(got.method_state.states[0], want.method_state)

  def test_two_rules_equal_twin(self):
    params, forget, retain = setup()
    state, metrics = P.run(PAIR, params, forget, retain)
    P.assert_close(state.params, twin(params, forget, retain, 2))
    self.assertEqual(set(metrics), {'forget_loss', 'retain_loss'})
    for name, first in (('forget_loss', True), ('retain_loss', False)):
      ran = np.asarray(metrics[name]) != 0
      np.testing.assert_array_equal(ran, [first] * 2 + [not first] * 4)

  def test_steps_are_swept_in_one_program(self):
    params, forget, retain = setup()
    state = jax.vmap(
      lambda n: set_steps(loop.init(PAIR, params, jax.random.key(0)), n)
    )(jnp.asarray([0, 1, 4, STEPS]))
    many, _ = jax.vmap(lambda s: loop.run(PAIR, s, forget, retain))(state)
    for k, switch in enumerate((0, 1, 4, STEPS)):
      want = twin(params, forget, retain, switch)
      P.assert_close(P.step_of(many.params, k), want, rtol=1e-4, atol=1e-5)

  def test_a_later_teacher_is_the_model_that_the_rule_finds(self):
    params, forget, retain = setup()
    # A batch that distils alone: no gradient where student and teacher agree.
    order = [0, 1, -1, -1, -1, -1]
    forget = P.steps_of(forget, order)
    distil = scrub(P.loss_fn, P.predict_fn, optax.sgd(0.5), loss_weight=0.0)
    state, _ = P.run(sequence((ASCENT, distil), (2,)), params, forget, retain)
    first = [jax.tree.map(lambda x: x[:2], b) for b in (forget, retain)]
    want, _ = P.run(ASCENT, params, *first)
    P.assert_close(state.params, want.params, rtol=1e-6, atol=1e-7)
    self.assertTrue(P.differ(state.params, params))
    P.assert_identical(state.method_state.states[1].frozen, state.params)

  def test_a_rule_of_no_steps_is_passed_over(self):
    params, forget, retain = setup()
    between = neg_grad_plus(P.loss_fn, P.sgd(1e6))
    method = sequence((ASCENT, between, REPAIR), (2, 0))
    state, _ = P.run(method, params, forget, retain)
    P.assert_close(state.params, twin(params, forget, retain, 2))
    self.assertEqual(state.method_state.stage, 2)

  def test_steps_of_padding_alone_do_not_count(self):
    params, forget, retain = setup()
    order = [0, -1, -1, 1, 2, 3, 4, 5]
    state, _ = P.run(
      PAIR, params, P.steps_of(forget, order), P.steps_of(retain, order)
    )
    P.assert_close(state.params, twin(params, forget, retain, 2))

  def test_retraining_later_starts_from_fresh_parameters(self):
    params, forget, retain = setup()
    fresh = retrain(P.loss_fn, P.sgd(0.0), P.init_fn)
    method = sequence((ASCENT, fresh), (2,))
    state, _ = P.run(method, params, forget, retain, key=4)
    key = jax.random.split(jax.random.key(4))[0]
    want = P.init_fn(jax.random.fold_in(key, 1))
    P.assert_identical(state.params, want)


class PrepareTest(parameterized.TestCase):
  def test_of_the_first_rule_is_run(self):
    params, forget, retain = setup()
    masked = salun(ASCENT, P.loss_fn, fraction=0.4)
    method = sequence((masked, REPAIR), (STEPS,))
    got, _ = P.run(method, params, forget, retain, prepare=True)
    want, _ = P.run(masked, params, forget, retain, prepare=True)
    P.assert_identical(got.params, want.params)
    P.assert_identical(got.method_state.states[0], want.method_state)
    self.assertIsNone(PAIR.prepare)

  def test_of_a_later_rule_raises(self):
    masked = salun(ASCENT, P.loss_fn)
    with self.assertRaisesRegex(ValueError, 'only the first .* may have'):
      sequence((REPAIR, masked), (1,))


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, (), 'at least one method, got none'),
    (2, (), 'steps must have 1 entries for 2 methods, got 0'),
    (2, (1, 2), 'steps must have 1 entries for 2 methods, got 2'),
    (2, (-1,), 'steps must be >= 0, got -1'),
  )
  def test_option(self, count, steps, message):
    with self.assertRaisesRegex(ValueError, message):
      sequence((ASCENT,) * count, steps)


if __name__ == '__main__':
  absltest.main()
