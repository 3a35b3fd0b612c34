"""Rewind: which epoch it picks, and its run of any rule."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import problems as P

from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.rewind import rewind
from unlearn_jax.methods.rewind import run_with_rewind
from unlearn_jax.training import loop

METHOD = gradient_ascent(P.loss_fn, P.sgd(0.3, 0.9))


class RewindTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('nearest', (0.0, 0.3, 0.9), 0.2, 1),
    ('below the error', (0.5, 0.1, 0.9), 0.25, 1),
    ('tie takes the earliest', (0.75, 0.5, 0.0, 0.5), 0.25, 1),
    ('tie but for rounding', (0.1, 0.3), 0.2, 0),
    ('identical checkpoints give the first', (0.4, 0.4, 0.4), 0.9, 0),
    ('one epoch', (1.0,), 0.0, 0),
    ('last', (0.0, 0.1, 0.2), 1.0, 2),
  )
  def test_picks(self, errors, held_out_error, want):
    got = rewind(np.asarray(errors), held_out_error)
    self.assertIs(type(got), int)
    self.assertEqual(got, want)

  def test_without_held_out_error_raises(self):
    with self.assertRaisesRegex(ValueError, 'held-out examples, got None'):
      rewind(np.asarray([0.1]), None)

  def test_without_epochs_raises(self):
    with self.assertRaisesRegex(ValueError, 'at least one epoch, got none'):
      rewind(np.asarray([]), 0.1)


class RunTest(parameterized.TestCase):
  def epochs(self):
    return [(P.make_batches(seed, 2, 5, padding=1), None) for seed in range(4)]

  def after_each(self):
    state = loop.init(METHOD, P.make_params(), jax.random.key(0))
    found = []
    for forget, retain in self.epochs():
      state, _ = loop.run(METHOD, state, forget, retain)
      found.append(jax.tree.map(np.asarray, state.params))
    return found

  @parameterized.parameters(
    ((0.1, 0.4, 0.6, 0.9), 0.45, 1),
    ((0.1, 0.4, 0.6, 0.9), 1.0, 3),
    ((0.2, 0.2, 0.2, 0.2), 0.7, 0),
  )
  def test_returns_the_parameters_of_the_epoch(self, errors, held_out, want):
    after = self.after_each()
    state = loop.init(METHOD, P.make_params(), jax.random.key(0))
    left, asked = iter(errors), []

    def held_out_error(params):
      asked.append(params)
      return held_out

    params, epoch = run_with_rewind(
      METHOD,
      state,
      iter(self.epochs()),
      forget_error_fn=lambda params: next(left),
      held_out_error_fn=held_out_error,
    )
    self.assertEqual(epoch, want)
    P.assert_identical(params, after[want])
    # The held-out error is that of the final model, and no other's.
    self.assertLen(asked, 1)
    P.assert_identical(asked[0], after[-1])
    P.assert_identical(state.params, P.make_params())  # Left usable.

  def test_errors_are_those_of_the_parameters_after_each_epoch(self):
    seen = []

    def error(params):
      seen.append(params)
      return 0.0

    run_with_rewind(
      METHOD,
      loop.init(METHOD, P.make_params(), jax.random.key(0)),
      self.epochs(),
      forget_error_fn=error,
      held_out_error_fn=lambda params: 0.0,
    )
    P.assert_identical(seen, self.after_each())

  @parameterized.parameters(
    (None, 'held-out examples, got None'),
    (lambda params: 0.1, 'at least one epoch, got none'),
  )
  def test_what_is_missing_raises(self, held_out_error_fn, message):
    state = loop.init(METHOD, P.make_params(), jax.random.key(0))
    with self.assertRaisesRegex(ValueError, message):
      run_with_rewind(
        METHOD,
        state,
        [],
        forget_error_fn=lambda params: 0.0,
        held_out_error_fn=held_out_error_fn,
      )


if __name__ == '__main__':
  absltest.main()
