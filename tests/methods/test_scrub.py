"""SCRUB against its NumPy twin, and its limits."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods import schedule
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.scrub import scrub_direction
from unlearn_jax.training import loop

HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
WEIGHTS = {'loss_weight': 0.9, 'distill_weight': 0.4, 'temperature': 2.5}
# Two epochs of one max-step and two min-steps.
FORGET_ORDER, RETAIN_ORDER = (0, -1, -1, 1, -1, -1), (-1, 0, 1, -1, 2, 0)
STEPS = len(FORGET_ORDER)

_direction = jax.jit(
  functools.partial(scrub_direction, loss_fn=P.loss_fn, predict_fn=P.predict_fn)
)


def setup():
  forget = P.steps_of(P.make_batches(1, 2, 5, padding=1), FORGET_ORDER)
  retain = P.steps_of(P.make_batches(2, 3, 7, padding=2), RETAIN_ORDER)
  return P.make_params(), forget, retain


@functools.cache
def _make(optimizer, options):
  tx = P.sgd(**dict(optimizer))
  return scrub(P.loss_fn, P.predict_fn, tx, **dict(options))


def make(optimizer=None, **options):
  """The same arguments give the same object, compiled once."""
  return _make(tuple((optimizer or {}).items()), tuple(options.items()))


def without_examples(batch):
  return {**batch, 'mask': jnp.zeros_like(batch['mask'])}


def twin_gradient(
  theta, original, forget, retain, loss_weight, distill_weight, temperature
):
  """Gradient of J_max + J_min; a batch of padding alone adds 0."""

  def distance(batch):
    batch = P.real_rows(batch)
    teacher, student = (P.twin_logits(p, batch) for p in (original, theta))
    slope = P.twin_kl_gradient(teacher, student, temperature)
    return P.twin_pullback(batch, slope / max(len(slope), 1))

  return P.add(
    (-1.0, distance(forget)),
    (loss_weight, P.twin_loss_gradient(theta, retain)),
    (distill_weight, distance(retain)),
  )


def twin_kl(original, theta, batch, temperature):
  batch = P.real_rows(batch)
  t, p = (
    P.twin_log_softmax(P.twin_logits(params, batch) / temperature)
    for params in (original, theta)
  )
  return temperature**2 * (np.exp(t) * (t - p)).sum(-1)


class DirectionTest(parameterized.TestCase):
  @parameterized.parameters(
    ('both', 0, 1), ('forget alone', 0, 0), ('retain alone', 1, 1)
  )
  def test_direction_equals_twin(self, _, forget_step, retain_step):
    params, forget, retain = setup()
    forget = P.step_of(forget, forget_step)
    retain = P.step_of(retain, retain_step)
    original = P.make_params(7)
    got, metrics = _direction(
      params, forget, retain, original=original, **WEIGHTS
    )
    theta, theta_o = P.as_float64(params), P.as_float64(original)
    P.assert_close(
      got, twin_gradient(theta, theta_o, forget, retain, **WEIGHTS)
    )
    means = [
      twin_kl(theta_o, theta, batch, WEIGHTS['temperature']).sum()
      / max(float(batch['mask'].sum()), 1.0)
      for batch in (forget, retain)
    ]
    losses = P.twin_losses(theta, P.real_rows(retain))
    loss = losses.sum() / max(len(losses), 1)
    np.testing.assert_allclose(metrics['forget_kl'], means[0], rtol=1e-5)
    want = WEIGHTS['loss_weight'] * loss + WEIGHTS['distill_weight'] * means[1]
    np.testing.assert_allclose(metrics['retain_objective'], want, rtol=1e-5)

  def test_a_batch_of_padding_alone_is_not_evaluated(self):
    params, forget, retain = setup()
    poison = jax.tree.map(
      lambda x: jnp.full_like(x, jnp.nan) if x.ndim > 1 else x,
      {'forget': P.step_of(forget, 1), 'retain': P.step_of(retain, 0)},
    )
    for f, r in (
      (P.step_of(forget, 0), poison['retain']),
      (poison['forget'], P.step_of(retain, 1)),
    ):
      got, _ = _direction(params, f, r, original=P.make_params(7), **WEIGHTS)
      for leaf in jax.tree.leaves(got):
        self.assertTrue(np.isfinite(leaf).all())
        self.assertGreater(np.abs(leaf).max(), 1e-3)


class RunTest(parameterized.TestCase):
  @parameterized.parameters({'learning_rate': 0.1}, HEAVY)
  def test_run_equals_twin(self, **optimizer):
    params, forget, retain = setup()
    state, _ = P.run(make(optimizer, **WEIGHTS), params, forget, retain)
    theta_o = P.as_float64(params)

    def gradient(p, k):
      pair = P.step_of(forget, k), P.step_of(retain, k)
      return twin_gradient(p, theta_o, *pair, **WEIGHTS)

    want = P.twin_run(gradient, params, STEPS, **optimizer)
    P.assert_close(state.params, want)

  def test_epochs_of_the_schedule_sweep_one_set_after_the_other(self):
    params, examples = P.make_params(), P.make_examples(20)
    rng = np.random.default_rng(0)
    epochs = [
      schedule.alternate(
        np.arange(6)[: 6 if epoch < 1 else 0],
        np.arange(6, 20),
        forget_batch=4,
        retain_batch=5,
        rng=rng,
      )
      for epoch in range(2)
    ]
    forget, retain = (
      batches.concatenate([e[side] for e in epochs], size)
      for side, size in ((0, 4), (1, 5))
    )
    steps = len(forget.rows)
    self.assertEqual(steps, (2 + 3) + 3)
    method = make(HEAVY, **WEIGHTS)
    state = loop.init(method, params, jax.random.key(0))
    state, _ = loop.run(method, state, forget, retain, examples)
    theta_o = P.as_float64(params)

    def gradient(p, k):
      pair = (
        batches.take(examples, batches.IndexBatches(b.rows[k], b.mask[k]))
        for b in (forget, retain)
      )
      return twin_gradient(p, theta_o, *pair, **WEIGHTS)

    P.assert_close(state.params, P.twin_run(gradient, params, steps, **HEAVY))

  def test_max_steps_move_away_from_the_original(self):
    params, forget, retain = setup()
    order = [0, 1] * 20
    forget = P.steps_of(forget, [3 * k for k in order])
    method = make({'learning_rate': 0.5})
    # One min-step first: at the original the max-step has no direction.
    retain = P.steps_of(retain, [1] + [-1] * 39)
    _, metrics = P.run(method, params, forget, retain)
    kl = np.asarray(metrics['forget_kl'])
    self.assertGreater(kl[-1], 10 * kl[1])


class LimitTest(parameterized.TestCase):
  def test_without_max_steps_the_forget_set_is_not_read(self):
    params, _, retain = setup()
    method = make(HEAVY, **WEIGHTS)
    one, two = (
      P.run(
        method, params, without_examples(P.make_batches(seed, 6, 5)), retain
      )[0]
      for seed in (3, 4)
    )
    P.assert_identical(one.params, two.params)

  def test_without_max_steps_is_distillation_and_cross_entropy(self):
    params, forget, retain = setup()
    order = [1, 2, 4]
    forget, retain = (P.steps_of(b, order) for b in (forget, retain))
    state, _ = P.run(make(HEAVY, **WEIGHTS), params, forget, retain)
    theta_o = P.as_float64(params)
    t = WEIGHTS['temperature']

    def gradient(p, k):
      batch = P.real_rows(P.step_of(retain, k))
      teacher, student = (P.twin_logits(x, batch) for x in (theta_o, p))
      slope = P.twin_kl_gradient(teacher, student, t) / len(student)
      return P.add(
        (WEIGHTS['loss_weight'], P.twin_loss_gradient(p, batch)),
        (WEIGHTS['distill_weight'], P.twin_pullback(batch, slope)),
      )

    want = P.twin_run(gradient, params, len(order), **HEAVY)
    P.assert_close(state.params, want)

  def test_without_max_steps_or_distillation_equals_fine_tune(self):
    params, forget, _ = setup()
    retain = P.make_batches(2, STEPS, 7, padding=2)
    method = make(HEAVY, loss_weight=1.0, distill_weight=0.0)
    got, _ = P.run(method, params, without_examples(forget), retain)
    want, _ = P.run(fine_tune(P.loss_fn, P.sgd(**HEAVY)), params, None, retain)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=1e-7)

  def test_distillation_alone_has_no_gradient_at_the_original(self):
    params, forget, retain = setup()
    got, metrics = _direction(
      params,
      P.step_of(forget, 1),
      P.step_of(retain, 1),
      original=params,
      **{**WEIGHTS, 'loss_weight': 0.0},
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    P.assert_identical(jax.tree.map(jnp.abs, got), zero)
    np.testing.assert_allclose(metrics['retain_objective'], 0.0, atol=1e-7)

  def test_max_step_has_no_gradient_at_the_original(self):
    params, forget, retain = setup()
    got, _ = _direction(
      params,
      P.step_of(forget, 0),
      P.step_of(retain, 0),
      original=params,
      **WEIGHTS,
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    P.assert_identical(jax.tree.map(jnp.abs, got), zero)


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('loss_weight', -0.1, '>= 0'),
    ('loss_weight', float('nan'), '>= 0'),
    ('distill_weight', -0.1, '>= 0'),
    ('distill_weight', float('nan'), '>= 0'),
    ('temperature', 0.0, '> 0'),
    ('temperature', float('nan'), '> 0'),
  )
  def test_option(self, name, value, bound):
    message = f'{name} must be {bound}, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      make(**{name: value})


if __name__ == '__main__':
  absltest.main()
