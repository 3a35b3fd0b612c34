"""Confidence matching: its rule against a twin, its limits, its targets."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P
import scipy.special

from unlearn_jax.evaluation.ulira import logit_confidence as twin_confidence
from unlearn_jax.methods.confidence_line import calibrate
from unlearn_jax.methods.confidence_matching import confidence_matching
from unlearn_jax.methods.confidence_matching import (
  confidence_matching_direction,
)
from unlearn_jax.methods.confidence_matching import logit_confidence
from unlearn_jax.methods.confidence_matching import resemblance
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.training import loop

STEPS = 6
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
NOTHING = {'slope': 1.0, 'offset': 0.0, 'spread': 0.0}

_direction = jax.jit(
  functools.partial(
    confidence_matching_direction, loss_fn=P.loss_fn, predict_fn=P.predict_fn
  ),
  static_argnames=('level', 'line'),
)


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


@functools.cache
def make(**options):
  return confidence_matching(P.loss_fn, P.predict_fn, P.sgd(**HEAVY), **options)


def twin_known(logits, label, line):
  """What the original model says of the forget examples."""
  if line != 'resemblance':
    return twin_confidence(logits, label)
  others = [np.delete(row, y) for row, y in zip(logits, label, strict=True)]
  return logits.mean(1) - scipy.special.logsumexp(others, axis=1)


def twin(theta, original, draw, forget, retain, options):
  """Returns the gradient of J, and the excess of each forget example."""
  rows, kept = P.real_rows(forget), P.real_rows(retain)
  logits, label = P.twin_logits(theta, rows), rows['label']
  target = options['offset'] + options['spread'] * draw
  target = target + options['slope'] * twin_known(
    P.twin_logits(original, rows), label, options.get('line')
  )
  excess = twin_confidence(logits, label) - target
  if options.get('level') == 'set':
    excess = np.full_like(excess, excess.mean())
  # phi is the logit of the true class less the log-sum-exp of the others.
  others = logits.copy()
  others[np.arange(len(label)), label] = -np.inf
  slopes = np.eye(P.CLASSES)[label] - scipy.special.softmax(others, -1)
  push = np.clip(excess, -1.0, 1.0)[:, None] * slopes / len(label)
  teacher, student = (P.twin_logits(p, kept) for p in (original, theta))
  distill = P.twin_kl_gradient(teacher, student) / len(kept['label'])
  gradient = P.add(
    (1.0, P.twin_pullback(rows, push)),
    (options['loss_weight'], P.twin_loss_gradient(theta, retain)),
    (options['distill_weight'], P.twin_pullback(kept, distill)),
  )
  return gradient, excess


class ConfidenceMatchingTest(parameterized.TestCase):
  @parameterized.parameters(
    {'slope': 1.3, 'offset': 1.5, 'spread': 0.0},
    {'slope': 0.0, 'offset': -3.5, 'spread': 0.7},
    {'slope': 1.3, 'offset': -4.0, 'spread': 0.0, 'level': 'set'},
    {'slope': 1.0, 'offset': 0.8, 'spread': 0.0, 'level': 'set'},
    {'slope': 0.8, 'offset': 0.8, 'spread': 0.7, 'line': 'resemblance'},
  )
  def test_direction_equals_twin(self, **line):
    options = {**line, 'loss_weight': 0.4, 'distill_weight': 1.5}
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    original = P.make_params(7)
    arrays = {k: v for k, v in options.items() if k not in ('level', 'line')}
    got, metrics = _direction(
      params,
      forget,
      retain,
      original=original,
      draw=1.25,
      level=options.get('level', 'example'),
      line=options.get('line', 'confidence'),
      **arrays,
    )
    theta, theta_o = P.as_float64(params), P.as_float64(original)
    want, excess = twin(theta, theta_o, 1.25, forget, retain, options)
    P.assert_close(got, want, rtol=1e-4)
    if options.get('level') != 'set':  # Both pieces of h count.
      self.assertGreater(np.abs(excess).max(), 1.0)
      self.assertLess(np.abs(excess).min(), 1.0)
    huber = np.where(
      np.abs(excess) < 1, excess**2 / 2, np.abs(excess) - 0.5
    ).mean()
    np.testing.assert_allclose(metrics['forget_mismatch'], huber, rtol=1e-5)

  def test_run_equals_twin(self):
    options = {'slope': 1.3, 'offset': -1.0, 'spread': 0.5}
    options |= {'loss_weight': 0.4, 'distill_weight': 1.5}
    params, forget, retain = setup()
    start = loop.init(make(**options), params, jax.random.key(3))
    draw = float(start.method_state.frozen[1])
    state, _ = loop.run(make(**options), start, forget, retain)
    theta_o = P.as_float64(params)

    def gradient(p, k):
      step = P.step_of(forget, k), P.step_of(retain, k)
      return twin(p, theta_o, draw, *step, options)[0]

    want = P.twin_run(gradient, params, STEPS, **HEAVY)
    P.assert_close(state.params, want, rtol=1e-4)

  def test_nothing_to_forget_is_fine_tuning(self):
    params, forget, retain = setup()
    method = make(**NOTHING, loss_weight=1.0, distill_weight=0.0)
    first = jax.tree.map(lambda x: x[:1], (forget, retain))
    got, _ = P.run(method, params, *first)
    tuned = fine_tune(P.loss_fn, P.sgd(**HEAVY))
    want, _ = P.run(tuned, params, None, first[1])
    P.assert_close(got.params, want.params)

  def test_a_weight_of_zero_asks_the_original_model_of_no_retain_example(self):
    """The same run as with an array of 0, which a search may change."""
    params, forget, retain = setup()
    sizes = []

    def predict_fn(params, batch):
      sizes.append(len(batch['label']))
      return P.predict_fn(params, batch)

    def run(distill_weight):
      sizes.clear()
      method = confidence_matching(
        P.loss_fn, predict_fn, P.sgd(**HEAVY), distill_weight=distill_weight
      )
      state, metrics = P.run(method, params, forget, retain)
      return state, metrics, sizes.count(7)

    left_out, metrics, passes = run(0.0)
    kept, beside, more = run(jnp.float32(0.0))
    self.assertEqual(more, passes + 1)
    P.assert_close(left_out.params, kept.params)
    self.assertNotIn('retain_kl', metrics)
    self.assertIn('retain_kl', beside)
    self.assertNotIn('distill_weight', left_out.method_state.hyper)
    self.assertIn('distill_weight', kept.method_state.hyper)

  @parameterized.parameters('example', 'set')
  def test_goes_to_the_target_and_stays(self, level):
    params, forget, retain = setup()
    one, other = (P.steps_of(side, [0] * 600) for side in (forget, retain))
    method = confidence_matching(
      P.loss_fn,
      P.predict_fn,
      P.sgd(0.1),
      slope=0.0,
      offset=-2.0,
      loss_weight=0.0,
      distill_weight=0.0,
      level=level,
    )
    state, _ = P.run(method, params, one, other)
    rows = P.real_rows(P.step_of(forget, 0))
    before, after = (
      twin_confidence(P.twin_logits(P.as_float64(p), rows), rows['label'])
      for p in (params, state.params)
    )
    self.assertGreater(before.max(), -1.0)
    self.assertLess(before.min(), -2.5)
    np.testing.assert_allclose(after.mean(), -2.0, atol=0.02)
    if level == 'example':
      np.testing.assert_allclose(after, -2.0, atol=0.05)
    else:  # The mean is there, and single examples are where they like.
      self.assertGreater(np.ptp(after), 1.0)

  def test_classes_that_others_resemble_less_are_less_surely_not_this(self):
    """Targets go by the other logits alone, and none of a shift of all."""
    label = jnp.array([0, 0, 0])
    logits = jnp.array([[9.0, 1.0, 0.0], [-9.0, 1.0, 0.0], [9.0, 4.0, 3.0]])
    level = logits - logits.mean(-1, keepdims=True)
    for shift in (0.0, 5.0):
      got = resemblance(logits + shift, label)
      want = jnp.logaddexp(level[:, 1], level[:, 2])
      np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_runs_draw_targets_of_their_own(self):
    params, _, _ = setup()
    draws = [
      float(loop.init(make(), params, jax.random.key(k)).method_state.frozen[1])
      for k in range(400)
    ]
    self.assertLess(abs(np.mean(draws)), 0.2)
    self.assertLess(abs(np.std(draws) - 1), 0.15)

  def test_confidence_equals_that_of_the_attack(self):
    logits = np.float32([[3, 1, 0], [-400, 500, 2], [0, 0, 0]])
    label = np.array([0, 1, 2])
    got = logit_confidence(jnp.asarray(logits), jnp.asarray(label))
    np.testing.assert_allclose(got, twin_confidence(logits, label), rtol=1e-6)

  def test_calibrated_confidences_have_moments_of_the_unheard(self):
    rng = np.random.default_rng(0)
    heard, unheard = rng.normal(7, 1.5, 500), rng.normal(5, 2.5, 300)
    slope, offset = calibrate(heard, unheard)
    moved = slope * heard + offset
    np.testing.assert_allclose(moved.mean(), unheard.mean())
    np.testing.assert_allclose(moved.std(), unheard.std())

  @parameterized.parameters(
    ([1.0], [1.0, 2.0], 'heard must be at least two finite values, got 1'),
    ([1.0, 2.0], [1.0, np.nan], 'unheard must be at least two finite'),
    ([2.0, 2.0], [1.0, 2.0], 'heard must hold values that differ'),
  )
  def test_calibrate_refuses(self, heard, unheard, message):
    with self.assertRaisesRegex(ValueError, message):
      calibrate(np.array(heard), np.array(unheard))

  @parameterized.parameters(
    ({'slope': -1.0}, 'slope must be >= 0, got -1.0'),
    ({'offset': float('nan')}, 'offset must be >= -inf, got nan'),
    ({'level': 'class'}, "level must be example or set, got 'class'"),
    ({'line': 'loss'}, "line must be confidence or resemblance, got 'loss'"),
    ({'spread': -0.1}, 'spread must be >= 0, got -0.1'),
    ({'loss_weight': -1.0}, 'loss_weight must be >= 0'),
    ({'distill_weight': float('nan')}, 'distill_weight must be >= 0, got nan'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      confidence_matching(P.loss_fn, P.predict_fn, P.sgd(), **options)


if __name__ == '__main__':
  absltest.main()
