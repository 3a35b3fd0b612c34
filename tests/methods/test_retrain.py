"""Retraining is the original training again, on the retain set alone."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.retrain import retrain
from unlearn_jax.training import loop
from unlearn_jax.training.dp_sgd import dp_descend
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.step import descend

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}


def augment(key, batch):
  noise = jax.random.normal(key, batch['features'].shape)
  return {**batch, 'features': batch['features'] + 0.3 * noise}


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return forget, retain


def fresh_params(key):
  """What a run of this key starts from."""
  return P.init_fn(jax.random.split(jax.random.key(key))[0])


class RetrainTest(absltest.TestCase):
  def test_with_an_empty_forget_set_equals_the_original_training(self):
    _, everything = setup()
    tx = Recipe(learning_rate=0.1).optimizer()
    original = descend(P.loss_fn, tx, augment)
    again = retrain(P.loss_fn, tx, P.init_fn, augment)
    states = [
      optax.tree_utils.tree_set(
        loop.init(method, params, jax.random.key(3)), total_steps=float(STEPS)
      )
      for method, params in (
        (original, fresh_params(3)),
        (again, P.make_params(9)),
      )
    ]
    want, losses = loop.run(original, states[0], None, everything)
    got, metrics = loop.run(again, states[1], None, everything)
    P.assert_identical(got.params, want.params)
    P.assert_identical(got.method_state.inner, want.method_state)
    P.assert_identical(metrics, losses)
    self.assertTrue(P.differ(got.params, fresh_params(3)))

  def test_with_a_bound_it_is_dp_sgd(self):
    _, everything = setup()
    options = {'max_norm': 0.5, 'noise_multiplier': 0.3}
    original = dp_descend(P.loss_fn, P.sgd(**HEAVY), **options)
    again = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn, **options)
    want, _ = P.run(original, fresh_params(3), None, everything, key=3)
    got, _ = P.run(again, P.make_params(9), None, everything, key=3)
    P.assert_close(got.params, want.params, rtol=1e-6)
    plain = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn)
    other, _ = P.run(plain, P.make_params(9), None, everything, key=3)
    self.assertTrue(P.differ(got.params, other.params))

  def test_run_equals_twin(self):
    _, retain = setup()
    method = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn)
    state, _ = P.run(method, P.make_params(9), None, retain, key=3)
    want = P.twin_run(
      lambda p, k: P.twin_loss_gradient(p, P.step_of(retain, k)),
      fresh_params(3),
      STEPS,
      **HEAVY,
    )
    P.assert_close(state.params, want)

  def test_does_not_depend_on_the_given_parameters(self):
    _, retain = setup()
    method = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn)
    one = P.make_params(0)
    two = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), one)
    got, want = (P.run(method, p, None, retain)[0].params for p in (two, one))
    P.assert_identical(got, want)

  def test_another_key_gives_another_model(self):
    _, retain = setup()
    method = retrain(P.loss_fn, P.sgd(), P.init_fn)
    params = P.make_params()
    one, two = (P.run(method, params, None, retain, k)[0] for k in (0, 1))
    self.assertTrue(P.differ(one.params, two.params))

  def test_reads_the_augmented_batch(self):
    _, retain = setup()
    method = retrain(
      P.loss_fn,
      P.sgd(),
      P.init_fn,
      lambda key, batch: {**batch, 'features': 2.0 * batch['features']},
    )
    plain = retrain(P.loss_fn, P.sgd(), P.init_fn)
    doubled = {**retain, 'features': 2.0 * retain['features']}
    params = P.make_params()
    got, _ = P.run(method, params, None, retain)
    want, _ = P.run(plain, params, None, doubled)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  def test_augmentation_gets_a_key_of_its_own_at_every_step(self):
    _, retain = setup()
    same = P.steps_of(retain, [0] * STEPS)
    method = retrain(P.loss_fn, P.sgd(0.0), P.init_fn, augment)
    _, metrics = P.run(method, P.make_params(), None, same)
    self.assertEqual(np.unique(metrics['retain_loss']).size, STEPS)

  def test_forget_batch_is_ignored(self):
    forget, retain = setup()
    method = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn)
    params = P.make_params()
    poison = jax.tree.map(
      lambda x: jnp.full_like(x, jnp.nan) if x.ndim > 2 else x, forget
    )
    got, want = (P.run(method, params, f, retain)[0] for f in (poison, None))
    P.assert_identical(got.params, want.params)

  def test_a_run_cut_in_two_starts_afresh_once(self):
    _, retain = setup()
    method = retrain(P.loss_fn, P.sgd(**HEAVY), P.init_fn)
    whole, _ = P.run(method, P.make_params(), None, retain)
    state = loop.init(method, P.make_params(), jax.random.key(0))
    for part in (slice(0, 2), slice(2, STEPS)):
      piece = jax.tree.map(lambda x, part=part: x[part], retain)
      state, _ = loop.run(method, state, None, piece)
    P.assert_identical(state, whole)


if __name__ == '__main__':
  absltest.main()
