"""Bad teacher against its NumPy twin, and where it must do nothing."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.bad_teacher import bad_teacher
from unlearn_jax.methods.bad_teacher import bad_teacher_direction

STEPS = 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
DIRECTIONS = ('teacher_student', 'student_teacher')

_direction = jax.jit(
  functools.partial(bad_teacher_direction, predict_fn=P.predict_fn),
  static_argnames='direction',
)


def setup():
  forget = P.make_batches(1, STEPS, 5, padding=1)
  retain = P.make_batches(2, STEPS, 7, padding=2)
  return P.make_params(), forget, retain


@functools.cache
def _make(init_fn, optimizer, options):
  tx = P.sgd(**dict(optimizer))
  return bad_teacher(P.predict_fn, init_fn, tx, **dict(options))


def make(init_fn=P.init_fn, optimizer=None, **options):
  """The same arguments give the same object, compiled once."""
  options = {'temperature': 1.0, 'direction': 'teacher_student'} | options
  optimizer = optimizer or {'learning_rate': 0.1}
  return _make(init_fn, tuple(optimizer.items()), tuple(options.items()))


def without_examples(batch):
  return {**batch, 'mask': jnp.zeros_like(batch['mask'])}


def twin_slope(teacher, student, temperature, direction):
  """Gradient of T^2 KL in the student's logits, [batch, classes]."""
  if direction == 'teacher_student':
    return P.twin_kl_gradient(teacher, student, temperature)
  log_t, log_p = (
    P.twin_log_softmax(z / temperature) for z in (teacher, student)
  )
  p, ratio = np.exp(log_p), log_p - log_t
  return temperature * p * (ratio - (p * ratio).sum(-1, keepdims=True))


def twin_kl(teacher, student, temperature, direction):
  """T^2 KL, [batch]."""
  pair = [P.twin_log_softmax(z / temperature) for z in (teacher, student)]
  first, second = pair if direction == 'teacher_student' else pair[::-1]
  return temperature**2 * (np.exp(first) * (first - second)).sum(-1)


def twin_gradient(
  theta, batches, teachers, temperature=1.0, direction='teacher_student'
):
  """Gradient of J, a mean over the examples of all `batches`.

  `teachers` map the rows of each batch to logits.
  """
  batches = [P.real_rows(batch) for batch in batches]
  count = sum(len(batch['mask']) for batch in batches)
  terms = [
    P.twin_pullback(
      batch,
      twin_slope(
        teacher(batch), P.twin_logits(theta, batch), temperature, direction
      ),
    )
    for batch, teacher in zip(batches, teachers, strict=True)
  ]
  return P.add(*((1.0 / count, term) for term in terms))


def logits_of(params):
  return functools.partial(P.twin_logits, P.as_float64(params))


def uniform(batch):
  return np.zeros((len(batch['mask']), P.CLASSES))


class DirectionTest(parameterized.TestCase):
  @parameterized.product(temperature=(1.0, 2.5), direction=DIRECTIONS)
  def test_direction_equals_twin(self, temperature, direction):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    bad, good = P.make_params(7), P.make_params(8)
    got, metrics = _direction(
      params,
      forget,
      retain,
      forget_logits=P.predict_fn(bad, forget),
      retain_logits=P.predict_fn(good, retain),
      temperature=temperature,
      direction=direction,
    )
    theta, teachers = P.as_float64(params), (logits_of(bad), logits_of(good))
    want = twin_gradient(
      theta, (forget, retain), teachers, temperature, direction
    )
    P.assert_close(got, want)
    for name, batch, teacher in zip(
      ('forget_kl', 'retain_kl'), (forget, retain), teachers, strict=True
    ):
      rows = P.real_rows(batch)
      kl = twin_kl(
        teacher(rows), P.twin_logits(theta, rows), temperature, direction
      )
      np.testing.assert_allclose(metrics[name], kl.mean(), rtol=1e-5)

  @parameterized.parameters(*DIRECTIONS)
  def test_batches_of_padding_alone_give_zero(self, direction):
    params, forget, retain = setup()
    forget, retain = (
      without_examples(P.step_of(batch, 0)) for batch in (forget, retain)
    )
    got, metrics = _direction(
      params,
      forget,
      retain,
      forget_logits=jnp.full((5, P.CLASSES), 1e4),
      retain_logits=jnp.full((7, P.CLASSES), -1e4),
      direction=direction,
    )
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, params))
    self.assertEqual(
      {name: float(x) for name, x in metrics.items()},
      {'forget_kl': 0.0, 'retain_kl': 0.0},
    )

  def test_longer_padding_changes_nothing(self):
    params, forget, retain = setup()
    forget, retain = P.step_of(forget, 0), P.step_of(retain, 0)
    teacher = P.make_params(7)

    def direction(forget, retain):
      return _direction(
        params,
        forget,
        retain,
        forget_logits=P.predict_fn(teacher, forget),
        retain_logits=P.predict_fn(teacher, retain),
      )

    longer = [
      jax.tree.map(
        lambda x, y: jnp.concatenate([x, y]), batch, without_examples(batch)
      )
      for batch in (forget, retain)
    ]
    for got, want in zip(
      direction(*longer), direction(forget, retain), strict=True
    ):
      P.assert_close(got, want, rtol=1e-6, atol=1e-7)


class RunTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'learning_rate': 0.1}, 1.0, 'teacher_student'),
    (HEAVY, 2.5, 'student_teacher'),
  )
  def test_run_equals_twin(self, optimizer, temperature, direction):
    params, forget, retain = setup()
    method = make(
      optimizer=optimizer, temperature=temperature, direction=direction
    )
    state, _ = P.run(method, params, forget, retain, key=4)
    # The teacher comes from the key that the method was begun with.
    bad = P.init_fn(jax.random.split(jax.random.key(4))[0])
    teachers = logits_of(bad), logits_of(params)

    def gradient(p, k):
      batches = P.step_of(forget, k), P.step_of(retain, k)
      return twin_gradient(p, batches, teachers, temperature, direction)

    P.assert_close(
      state.params, P.twin_run(gradient, params, STEPS, **optimizer)
    )

  def test_uniform_teacher_says_one_over_classes(self):
    params, forget, retain = setup()
    method = make(uniform_teacher=True, optimizer=HEAVY)
    state, _ = P.run(method, params, forget, retain)
    teachers = uniform, logits_of(params)

    def gradient(p, k):
      batches = P.step_of(forget, k), P.step_of(retain, k)
      return twin_gradient(p, batches, teachers)

    P.assert_close(state.params, P.twin_run(gradient, params, STEPS, **HEAVY))

  def test_another_key_gives_another_teacher(self):
    params, forget, retain = setup()
    method = make()
    one, two = (P.run(method, params, forget, retain, k)[0] for k in (0, 1))
    self.assertTrue(P.differ(one.params, two.params))

  def test_uniform_teacher_does_not_read_the_key(self):
    params, forget, retain = setup()
    method = make(uniform_teacher=True, optimizer=HEAVY)
    one, two = (P.run(method, params, forget, retain, k)[0] for k in (0, 1))
    P.assert_identical(one.params, two.params)


class LimitTest(parameterized.TestCase):
  @parameterized.parameters(*DIRECTIONS)
  def test_empty_forget_set_is_self_distillation(self, direction):
    params, forget, retain = setup()
    method = make(direction=direction)
    state, metrics = P.run(method, params, without_examples(forget), retain)
    P.assert_identical(state.params, params)
    np.testing.assert_array_equal(metrics['forget_kl'], np.zeros(STEPS))
    np.testing.assert_allclose(metrics['retain_kl'], np.zeros(STEPS), atol=1e-7)

  @parameterized.parameters(*DIRECTIONS)
  def test_bad_teacher_equal_to_the_original_is_the_identity(self, direction):
    params, forget, retain = setup()
    method = make(init_fn=lambda key: params, direction=direction)
    state, _ = P.run(method, params, forget, retain)
    P.assert_identical(state.params, params)

  def test_empty_retain_set_drifts_to_the_bad_teacher(self):
    params, forget, retain = setup()
    forget = P.steps_of(forget, [0] * 200)
    retain = without_examples(P.steps_of(retain, [0] * 200))
    method = make(optimizer={'learning_rate': 1.0})
    _, metrics = P.run(method, params, forget, retain)
    self.assertLess(metrics['forget_kl'][-1], 0.01 * metrics['forget_kl'][0])


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, -1.0, float('nan'))
  def test_temperature(self, temperature):
    message = f'temperature must be > 0, got {temperature}'
    with self.assertRaisesRegex(ValueError, message):
      make(temperature=temperature)

  def test_direction(self):
    message = "'teacher_student' or 'student_teacher', got 'both'"
    with self.assertRaisesRegex(ValueError, message):
      make(direction='both')


if __name__ == '__main__':
  absltest.main()
