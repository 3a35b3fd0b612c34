"""A run of many epochs: its curves, its costs, and going on after a kill."""

import contextlib
import pathlib
import tempfile
import time

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.salun import salun
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.training.fit import Program
from unlearn_jax.types import UnlearningMethod

EPOCHS = 4
FORGET, RETAIN = np.arange(9), np.arange(9, 50)
EXAMPLES = P.make_examples(50)

# Reads the key of every step, and prepares.
METHOD = salun(
  random_label(P.loss_fn, P.predict_fn, P.sgd(0.1, 0.9, 0.1), resample=True),
  P.loss_fn,
)


def epoch_batches(epoch):
  """21 steps, so two calls of the compiled loop."""
  rng = np.random.default_rng(epoch)
  return (
    batches.repeat(FORGET, 4, 21, rng),
    batches.one_pass(RETAIN, 2, rng),
  )


PREPARE = (batches.one_pass(FORGET, 4), batches.one_pass(RETAIN, 2))


class Recorder(Program):
  """Notes what it is asked to run, and may be interrupted."""

  def __init__(self, method):
    super().__init__(method)
    self.calls = []
    self.interrupt_at = None

  def __call__(self, fun, *args):
    if len(self.calls) == self.interrupt_at:
      raise Interrupted
    self.calls.append(fun)
    return super().__call__(fun, *args)


class Interrupted(Exception):
  pass


PROGRAM = Recorder(METHOD)


def start(method=METHOD, key=0):
  return loop.init(method, P.make_params(), jax.random.key(key))


def observe(params):
  return {'size': float(jnp.abs(params['kernel']).sum())}


def fit(epochs=EPOCHS, program=PROGRAM, state=None, **options):
  options = {'prepare_batches': PREPARE, 'observe': observe} | options
  options = {'epoch_batches': epoch_batches, 'examples': EXAMPLES} | options
  state = start() if state is None else state
  return fit_lib.fit(program, state, epochs, **options)


def plain_run(epochs=EPOCHS):
  """The same by the loop alone: the state and metrics after each epoch."""
  state = loop.prepare(METHOD, start(), *PREPARE, EXAMPLES)
  states, losses = [state], []
  for epoch in range(epochs):
    copy = jax.tree.map(jnp.copy, states[-1])
    state, metrics = loop.run(METHOD, copy, *epoch_batches(epoch), EXAMPLES)
    states.append(state)
    losses.append(metrics)
  return states, losses


def deterministic(progress):
  """All of the progress that does not depend on the clock."""
  return progress.curves, progress.examples, progress.steps


class FitTest(parameterized.TestCase):
  def test_equals_the_loop_with_curves_and_costs(self):
    states, losses = plain_run()
    result = fit()
    P.assert_identical(result.state, states[-1])
    self.assertEqual(result.kept, ())
    curves = result.progress.curves
    self.assertEqual(
      set(curves), {'size', 'train_wrong_label_loss', 'train_retain_loss'}
    )
    want = [observe(state.params)['size'] for state in states]
    self.assertEqual(curves['size'], want)
    for name in ('wrong_label_loss', 'retain_loss'):
      want = [np.mean(metrics[name]) for metrics in losses]
      np.testing.assert_allclose(curves[f'train_{name}'], want, rtol=1e-6)
    self.assertEqual(result.progress.steps, EPOCHS * 21)
    # 21 full forget batches of 4, and each of 41 retain examples once.
    self.assertEqual(result.progress.examples, EPOCHS * (21 * 4 + 41))

  def test_keep_returns_the_parameters_after_each_epoch(self):
    states, _ = plain_run()
    want = jax.tree.map(
      lambda *x: jnp.stack(x), *(state.params for state in states[1:])
    )
    P.assert_identical(fit(keep=True).kept, want)

  def test_given_state_stays_usable(self):
    state = start()
    fit(epochs=1, state=state)
    P.assert_identical(state, start())

  def test_zero_epochs(self):
    states, _ = plain_run(0)
    result = fit(epochs=0, keep=True)
    P.assert_identical(result.state, states[0])
    self.assertEqual(result.kept['kernel'].shape, (0, P.FEATURES, P.CLASSES))
    # Before and after `prepare`, which leaves the parameters of this rule.
    curves = {'size': [observe(P.make_params())['size']] * 2}
    self.assertEqual(deterministic(result.progress), (curves, 0, 0))
    self.assertGreater(result.progress.run_s, 0.0)  # Of prepare.

  def test_on_epoch_sees_the_progress(self):
    seen = []

    def on_epoch(done, progress):
      seen.append((done, progress.steps, len(progress.curves['size'])))

    fit(epochs=3, on_epoch=on_epoch)
    self.assertEqual(seen, [(1, 21, 2), (2, 42, 3), (3, 63, 4)])

  def test_time_of_compiling_and_observing_does_not_count(self):
    def slow(params):
      time.sleep(0.3)
      return {}

    # A method of its own, which JAX has not compiled before.
    program = Program(METHOD._replace(update=lambda *x: METHOD.update(*x)))
    result = fit(epochs=1, program=program, observe=slow)
    self.assertGreater(result.progress.run_s, 0.0)
    self.assertLess(result.progress.run_s, min(0.5, program.compile_s))

  def test_runs_of_other_sizes_share_the_compiled_program(self):
    traced = []

    def update(params, state, forget, retain, key):
      traced.append(key)
      return METHOD.update(params, state, forget, retain, key)

    program = Program(UnlearningMethod(METHOD.init, update))
    state = start(program.method)
    fit(1, program, state)
    count, compile_s = len(traced), program.compile_s
    self.assertGreater(count, 0)
    for rows in (7, 64):
      rng = np.random.default_rng(0)
      other = (
        batches.repeat(FORGET, 4, rows // 2, rng),
        batches.one_pass(np.arange(rows // 2 * 2) % 50, 2),
      )
      result = fit(2, program, state, epoch_batches=lambda _, b=other: b)
      self.assertEqual(result.progress.steps, 2 * (rows // 2))
    self.assertLen(traced, count)
    self.assertEqual(program.compile_s, compile_s)

  def test_epochs_without_steps(self):
    none = batches.empty(0, 4)
    result = fit(2, epoch_batches=lambda epoch: (none, none))
    self.assertEqual(result.progress.steps, 0)
    self.assertEqual(list(result.progress.curves), ['size'])
    self.assertLen(result.progress.curves['size'], 3)

  def test_batches_of_unequal_steps(self):
    unequal = (batches.empty(3, 4), batches.empty(2, 2))
    with self.assertRaisesRegex(ValueError, r'same steps, got \[2, 3\]'):
      fit(epoch_batches=lambda epoch: unequal)


class ResumeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def interrupt(self, at, **options):
    """Runs into an exception between the last call of an epoch and its end."""

    def on_epoch(done, progress):
      if done == at:
        raise Interrupted
      self.saved_s = progress.run_s

    options |= {'checkpoints': self.folder, 'checkpoint_every_s': 0}
    with self.assertRaises(Interrupted):
      fit(on_epoch=on_epoch, **options)

  @parameterized.parameters(1, 2, 4)
  def test_resumed_run_equals_an_undisturbed_one(self, at):
    want = fit(keep=True)
    self.interrupt(at, keep=True)
    seen = []
    got = fit(
      keep=True,
      checkpoints=self.folder,
      on_epoch=lambda done, progress: seen.append(done),
    )
    self.assertEqual(seen, list(range(at, EPOCHS + 1)))
    P.assert_identical(got.state, want.state)
    P.assert_identical(got.kept, want.kept)
    self.assertEqual(deterministic(got.progress), deterministic(want.progress))

  def test_time_goes_on_where_it_was(self):
    self.interrupt(3)
    times = [self.saved_s]
    fit(
      checkpoints=self.folder,
      on_epoch=lambda done, progress: times.append(progress.run_s),
    )
    self.assertLen(times, 3)
    self.assertTrue((np.diff(times) > 0).all())

  def test_prepare_runs_once_and_not_again_on_resume(self):
    PROGRAM.calls.clear()
    self.interrupt(3)
    self.assertEqual(PROGRAM.calls, [loop.prepare] + [loop.run] * 6)
    PROGRAM.calls.clear()
    fit(checkpoints=self.folder)
    self.assertEqual(PROGRAM.calls, [loop.run] * 2)

  @parameterized.parameters(0, 1, 4, 5, 8)
  def test_interrupted_in_the_middle_of_an_epoch(self, calls):
    """And again, two calls on."""
    want = fit(keep=True)
    options = {'checkpoints': self.folder, 'keep': True}
    self.addCleanup(setattr, PROGRAM, 'interrupt_at', None)
    PROGRAM.calls.clear()
    for at in (calls + 1, calls + 3):
      PROGRAM.interrupt_at = at
      with contextlib.suppress(Interrupted):
        fit(checkpoint_every_s=0, **options)
    PROGRAM.interrupt_at = None
    got = fit(checkpoint_every_s=0, **options)
    self.assertEqual(PROGRAM.calls.count(loop.run), 2 * EPOCHS)  # None twice.
    P.assert_identical(got.state, want.state)
    P.assert_identical(got.kept, want.kept)
    self.assertEqual(deterministic(got.progress), deterministic(want.progress))

  def test_checkpoint_of_more_epochs_is_refused(self):
    self.interrupt(4)
    with self.assertRaisesRegex(ValueError, 'epochs must be >= 4, got 2'):
      fit(checkpoints=self.folder, epochs=2)

  def test_checkpoints_are_no_more_frequent_than_asked(self):
    fit(checkpoints=self.folder, checkpoint_every_s=3600.0)
    seen = []
    fit(
      checkpoints=self.folder,
      on_epoch=lambda done, progress: seen.append(done),
    )
    self.assertEqual(seen, [1, 2, 3, 4])


class NonFiniteTest(parameterized.TestCase):
  @parameterized.parameters(
    (3, float('nan'), 'loss is nan at step 3;'),
    (18, float('inf'), 'loss is inf at step 18;'),
    (21 + 20, float('-inf'), 'loss is -inf at step 41;'),
  )
  def test_error_names_the_step(self, step, value, message):
    def update(params, count, forget, retain, key):
      loss = jnp.where(count + 1 == step, value, 1.0)
      return params, count + 1, {'fine': jnp.ones(()), 'loss': loss}

    method = UnlearningMethod(lambda p, k: jnp.zeros((), jnp.int32), update)
    with self.assertRaisesRegex(NonFiniteLossError, f'^{message}'):
      fit(3, Program(method), start(method))

  def test_padding_does_not_count(self):
    # The last call of an epoch holds 5 real steps, then padding.
    def update(params, count, forget, retain, key):
      loss = jnp.where(retain['mask'].sum() > 0, 1.0, jnp.nan)
      return params, count, {'loss': loss}

    method = UnlearningMethod(lambda p, k: jnp.zeros(()), update)
    result = fit(1, Program(method), start(method))
    self.assertEqual(result.progress.curves['train_loss'], [1.0])


if __name__ == '__main__':
  absltest.main()
