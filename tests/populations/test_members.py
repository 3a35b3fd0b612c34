"""Several runs as one program: each as it would be alone."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.salun import salun
from unlearn_jax.populations import members
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.fit import NonFiniteLossError

EPOCHS, RUNS = 3, 3
EXAMPLES = P.make_examples(60)
# Reads the key of every step, and prepares.
METHOD = salun(
  random_label(P.loss_fn, P.predict_fn, P.sgd(0.1, 0.9, 0.1), resample=True),
  P.loss_fn,
)
ROWS = np.arange(60)


def sets(run):
  return ROWS[run : run + 9], np.delete(ROWS, np.s_[run : run + 9])[:41]


def epoch_batches(run, epoch):
  """21 steps, so two calls of the compiled loop."""
  rng = np.random.default_rng([run, epoch])
  forget, retain = sets(run)
  return (
    batches.repeat(forget, 4, 21, rng),
    batches.one_pass(retain, 2, rng),
  )


def prepare(run):
  forget, retain = sets(run)
  return batches.one_pass(forget, 4), batches.one_pass(retain, 2)


def start(run):
  return loop.init(METHOD, P.make_params(run), jax.random.key(run))


def observe(params):
  return {'size': float(jnp.abs(params['kernel']).sum())}


def alone(run):
  return fit_lib.fit(
    fit_lib.Program(METHOD),
    start(run),
    EPOCHS,
    lambda epoch: epoch_batches(run, epoch),
    EXAMPLES,
    prepare_batches=prepare(run),
    observe=observe,
    keep=True,
  )


def together(program, **options):
  runs = range(RUNS)
  return fit_lib.fit(
    program,
    members.stack([start(run) for run in runs]),
    EPOCHS,
    lambda e: members.stack_batches([epoch_batches(run, e) for run in runs]),
    options.pop('examples', EXAMPLES),
    prepare_batches=members.stack_batches([prepare(run) for run in runs]),
    observe=members.observe_each(lambda i, params: observe(params), RUNS),
    keep=True,
    **options,
  )


class Interrupted(Exception):
  pass


class MembersTest(parameterized.TestCase):
  @parameterized.parameters('map', 'vmap')
  def test_each_is_as_alone(self, strategy):
    result = together(members.MembersProgram(METHOD, strategy))
    for run, got in enumerate(members.split(result, RUNS)):
      want = alone(run)
      for name in ('state', 'kept'):
        jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
          *(
            jax.tree.map(
              lambda x: (
                jax.random.key_data(x)
                if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                else x
              ),
              getattr(r, name),
            )
            for r in (got, want)
          ),
        )
      self.assertEqual(set(got.progress.curves), set(want.progress.curves))
      for name, values in want.progress.curves.items():
        np.testing.assert_allclose(
          got.progress.curves[name], values, rtol=2e-5, err_msg=name
        )
      self.assertEqual(got.progress.steps, want.progress.steps)
      self.assertEqual(got.progress.examples, want.progress.examples)
      self.assertAlmostEqual(
        got.progress.run_s * RUNS, result.progress.run_s, places=6
      )

  def test_goes_on_from_a_checkpoint(self):
    program = members.MembersProgram(METHOD)
    want = together(program)
    with tempfile.TemporaryDirectory() as folder:
      options = {
        'checkpoints': pathlib.Path(folder),
        'checkpoint_every_s': 0.0,
      }

      def interrupt(done, progress):
        if done == 2:
          raise Interrupted

      with self.assertRaises(Interrupted):
        together(program, on_epoch=interrupt, **options)
      got = together(program, **options)
    P.assert_identical(got.state, want.state)
    self.assertEqual(got.progress.curves, want.progress.curves)

  def test_one_that_diverges_is_said(self):
    bad = jax.tree.map(jnp.copy, EXAMPLES)
    bad['features'] = bad['features'].at[0].set(jnp.inf)  # Run 0 forgets it.
    with self.assertRaisesRegex(
      NonFiniteLossError, r'^\w+ is (nan|inf) at step \d+; lower the learning'
    ):
      together(members.MembersProgram(METHOD), examples=bad)

  def test_batches_of_other_shapes_are_refused(self):
    one = None, batches.one_pass(ROWS[:4], 2)
    other = None, batches.one_pass(ROWS[:8], 2)
    with self.assertRaisesRegex(
      ValueError, r'^runs must have batches of one shape, got \['
    ):
      members.stack_batches([one, other])


if __name__ == '__main__':
  absltest.main()
