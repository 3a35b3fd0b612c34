"""Random label: the draw of wrong labels, and the rule against its twin."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P
import scipy.stats

from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.random_label import random_label_direction
from unlearn_jax.methods.random_label import wrong_labels

STEPS = 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}

_draw = jax.jit(wrong_labels, static_argnames='num_classes')


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


def make(retain_weight=1.0, resample=False, **optimizer):
  return random_label(
    P.loss_fn,
    P.predict_fn,
    P.sgd(**optimizer),
    retain_weight=retain_weight,
    resample=resample,
  )


class WrongLabelsTest(parameterized.TestCase):
  def test_wrong_labels_are_uniform(self):
    classes, draws = 12, 100_000
    label = jnp.arange(draws) % classes
    got = _draw(jax.random.key(3), label, jnp.arange(draws), classes)
    shift = np.asarray((got - label) % classes)
    counts = np.bincount(shift, minlength=classes)
    self.assertEqual(counts[0], 0)
    self.assertGreater(scipy.stats.chisquare(counts[1:]).pvalue, 1e-3)

  @parameterized.product(seed=(0, 1, 2**31), classes=(2, 3, 35))
  def test_no_label_is_the_true_one(self, seed, classes):
    label = jnp.arange(500, dtype=jnp.int32) % classes
    got = _draw(jax.random.key(seed), label, jnp.arange(500), classes)
    self.assertFalse((got == label).any())
    self.assertTrue(((got >= 0) & (got < classes)).all())
    self.assertEqual(got.dtype, label.dtype)

  def test_two_classes_flip(self):
    label = jnp.asarray([0, 1, 1, 0], jnp.int32)
    got = _draw(jax.random.key(0), label, jnp.arange(4), 2)
    np.testing.assert_array_equal(got, [1, 0, 0, 1])

  def test_labels_follow_the_id_and_not_the_place_in_the_batch(self):
    label, ids = jnp.arange(60) % 7, jnp.arange(60)
    order = np.random.default_rng(0).permutation(60)
    plain = _draw(jax.random.key(1), label, ids, 7)
    mixed = _draw(jax.random.key(1), label[order], ids[order], 7)
    np.testing.assert_array_equal(mixed, plain[order])

  def test_another_key_gives_other_labels(self):
    label, ids = jnp.zeros(60, jnp.int32), jnp.arange(60)
    one, two = (_draw(jax.random.key(k), label, ids, 7) for k in (0, 1))
    self.assertTrue((one != two).any())


class RandomLabelTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.5)
  def test_direction_equals_closed_form(self, weight):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    got, metrics = random_label_direction(
      params, forget, retain, loss_fn=P.loss_fn, retain_weight=weight
    )
    theta = P.as_float64(params)
    want = P.add(
      (1.0, P.twin_loss_gradient(theta, forget)),
      (weight, P.twin_loss_gradient(theta, retain)),
    )
    P.assert_close(got, want)
    loss = P.twin_losses(theta, P.real_rows(forget)).mean()
    np.testing.assert_allclose(metrics['wrong_label_loss'], loss, rtol=1e-6)

  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_run_equals_twin(self, **optimizer):
    params, forget, retain = setup()
    method = make(0.5, **optimizer)
    state, _ = P.run(method, params, forget, retain, key=4)
    # The labels that the run drew, from the key that it drew them with.
    label_key = jax.random.split(jax.random.key(4))[0]
    label = jax.vmap(lambda y, i: wrong_labels(label_key, y, i, P.CLASSES))(
      forget['label'], forget['id']
    )
    relabelled = {**forget, 'label': label}

    def gradient(p, k):
      return P.add(
        (1.0, P.twin_loss_gradient(p, P.step_of(relabelled, k))),
        (0.5, P.twin_loss_gradient(p, P.step_of(retain, k))),
      )

    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)

  def test_empty_forget_set_equals_fine_tune_with_that_weight(self):
    params, forget, retain = setup()
    forget = {**forget, 'mask': jnp.zeros_like(forget['mask'])}
    got, _ = P.run(make(0.5, learning_rate=0.2), params, forget, retain)
    want, _ = P.run(fine_tune(P.loss_fn, P.sgd(0.1)), params, None, retain)
    P.assert_close(got.params, want.params)

  def test_retain_weight_zero_does_not_read_the_retain_set(self):
    params, forget, retain = setup()
    method = make(0.0)
    with_set, _ = P.run(method, params, forget, retain)
    without, _ = P.run(method, params, forget, None)
    P.assert_close(with_set.params, without.params, rtol=1e-6, atol=1e-7)

  def test_two_passes_agree_unless_resampled(self):
    params, forget, _ = setup()
    key = jax.random.key(0)
    for resample in (False, True):
      method = make(resample=resample, learning_rate=0.0)
      state = method.init(params, key)
      losses = [
        method.update(params, state, P.step_of(forget, 0), None, k)[2]
        for k in jax.random.split(jax.random.key(1), 8)
      ]
      distinct = {float(m['wrong_label_loss']) for m in losses}
      self.assertEqual(len(distinct) > 1, resample)

  @parameterized.parameters(-0.1, float('nan'))
  def test_bounds(self, weight):
    message = f'retain_weight must be >= 0, got {weight}'
    with self.assertRaisesRegex(ValueError, message):
      make(weight)


if __name__ == '__main__':
  absltest.main()
