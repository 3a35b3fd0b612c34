"""The divergence of one example against SciPy and closed forms."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P
import scipy.special

from unlearn_jax.methods.divergence import kl_divergence

_value = jax.jit(kl_divergence)
# The gradient in the logits of the second argument, the student.
_gradient = jax.jit(
  jax.grad(lambda s, t, temp: kl_divergence(t, s, temp).sum())
)

# In the logits of the first, the student where it stands there.
_first_gradient = jax.jit(
  jax.grad(lambda s, t, temp: kl_divergence(s, t, temp).sum())
)


def make_logits(seed, classes=5, batch=7, scale=3.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=(batch, classes)), jnp.float32)


def twin_kl(target, logits, temperature=1.0):
  t, p = (
    scipy.special.softmax(np.float64(z) / temperature, axis=-1)
    for z in (target, logits)
  )
  return temperature**2 * scipy.special.rel_entr(t, p).sum(-1)


class KlDivergenceTest(parameterized.TestCase):
  @parameterized.product(temperature=(0.5, 1.0, 4.0), classes=(2, 5, 35))
  def test_equals_scipy(self, temperature, classes):
    target, logits = make_logits(0, classes), make_logits(1, classes)
    got = _value(target, logits, temperature)
    want = twin_kl(target, logits, temperature)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    self.assertGreater(want.min(), 1e-3)  # Else atol would hide an error.

  def test_worked_case_of_two_classes(self):
    got = kl_divergence(jnp.zeros((1, 2)), jnp.log(jnp.asarray([[0.9, 0.1]])))
    np.testing.assert_allclose(got, [0.5108256], rtol=1e-6)

  def test_is_not_symmetric(self):
    # KL(p || t) of the worked case: 0.9 log 1.8 + 0.1 log 0.2.
    got = kl_divergence(jnp.log(jnp.asarray([[0.9, 0.1]])), jnp.zeros((1, 2)))
    np.testing.assert_allclose(got, [0.3680642], rtol=1e-6)

  def test_is_zero_between_equals(self):
    logits = make_logits(0)
    np.testing.assert_array_equal(_value(logits, logits, 2.0), np.zeros(7))

  def test_one_value_an_example_unmoved_by_the_others(self):
    target, logits = make_logits(0), make_logits(1)
    got = _value(target, logits, 1.0)
    self.assertEqual(got.shape, (7,))
    alone = _value(target[2:3], logits[2:3], 1.0)
    np.testing.assert_allclose(got[2:3], alone, rtol=1e-6)

  def test_sums_over_classes(self):
    # Classes that both think impossible add nothing and divide nothing.
    target, logits = make_logits(0, 3), make_logits(1, 3)
    wide = [
      jnp.concatenate([z, jnp.full((7, 9), -1e4)], -1) for z in (target, logits)
    ]
    got = _value(*wide, 1.0)
    np.testing.assert_allclose(got, twin_kl(target, logits), rtol=2e-5)

  def test_adding_a_constant_to_the_logits_changes_nothing(self):
    target, logits = make_logits(0), make_logits(1)
    got = _value(target + 8.0, logits - 8.0, 2.0)
    np.testing.assert_allclose(got, twin_kl(target, logits, 2.0), rtol=1e-4)

  @parameterized.parameters(0.5, 1.0, 4.0)
  def test_gradient_is_temperature_times_difference(self, temperature):
    target, logits = make_logits(0), make_logits(1)
    got = _gradient(logits, target, temperature)
    want = P.twin_kl_gradient(
      np.float64(target), np.float64(logits), temperature
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

  def test_gradient_keeps_its_size_as_the_temperature_grows(self):
    # To first order in 1 / T: (z_s - z_t) / C, both centred, whatever T is.
    target, logits = make_logits(0), make_logits(1)
    got = _gradient(logits, target, 1e3)
    centred = np.float64(logits) - np.float64(target)
    centred -= centred.mean(-1, keepdims=True)
    np.testing.assert_allclose(got, centred / 5, rtol=0.02, atol=5e-3)

  def test_impossible_target_class_adds_zero(self):
    target = jnp.asarray([[0.0, 1.0, -jnp.inf]])
    logits = make_logits(0, classes=3, batch=1)
    got = _value(target, logits, 2.0)
    np.testing.assert_allclose(got, twin_kl(target, logits, 2.0), rtol=1e-5)
    slope = _gradient(logits, target, 2.0)
    t, s = (
      scipy.special.softmax(np.float64(z) / 2.0, axis=-1)
      for z in (target, logits)
    )
    np.testing.assert_allclose(slope, 2.0 * (s - t), rtol=1e-4)

  @parameterized.parameters(False, True)
  def test_gradient_in_the_first_argument(self, has_impossible_class):
    first, second = make_logits(0), make_logits(1)
    if has_impossible_class:
      first = first.at[:, 2].set(-jnp.inf)
    got = _first_gradient(first, second, 2.0)
    p, q = (
      scipy.special.softmax(np.float64(z) / 2.0, axis=-1)
      for z in (first, second)
    )
    # T p (log p - log q - KL), 0 where p is.
    entropy = scipy.special.rel_entr(p, q)
    want = 2.0 * (entropy - p * entropy.sum(-1, keepdims=True))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

  def test_class_impossible_for_both_adds_zero(self):
    logits = jnp.asarray([[0.0, 1.0, -jnp.inf]])
    target = jnp.asarray([[1.0, 0.0, -jnp.inf]])
    want = twin_kl(target[:, :2], logits[:, :2])
    np.testing.assert_allclose(_value(target, logits, 1.0), want, rtol=1e-5)

    for slope in (_gradient, _first_gradient):
      got = slope(logits, target, 1.0)
      alone = slope(logits[:, :2], target[:, :2], 1.0)
      np.testing.assert_allclose(got[:, :2], alone, rtol=1e-5)
      np.testing.assert_array_equal(got[:, 2], [0.0])

  def test_gradients_between_equals_are_exactly_zero(self):
    logits = make_logits(0)
    for slope in (_gradient, _first_gradient):
      np.testing.assert_array_equal(
        slope(logits, logits, 3.0), np.zeros((7, 5))
      )

  @parameterized.parameters(1.0, 3.0)
  def test_forward_and_second_derivatives(self, temperature):
    # The Hessian in the student's logits is diag(p) - p p^T.
    target, logits = make_logits(0)[0], make_logits(1)[0]
    fun = lambda s: kl_divergence(target, s, temperature)  # noqa: E731
    hessian = jax.jit(jax.jacfwd(jax.grad(fun)))(logits)
    p = scipy.special.softmax(np.float64(logits) / temperature)
    want = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(hessian, want, rtol=1e-4, atol=1e-6)
    direction = jnp.arange(5.0)
    _, slope = jax.jvp(fun, (logits,), (direction,))
    np.testing.assert_allclose(
      slope, jnp.vdot(jax.grad(fun)(logits), direction), rtol=1e-4
    )

  def test_possible_class_that_the_student_rules_out_costs_infinity(self):
    target, logits = jnp.zeros((1, 2)), jnp.asarray([[0.0, -jnp.inf]])
    np.testing.assert_array_equal(_value(target, logits, 1.0), [np.inf])


if __name__ == '__main__':
  absltest.main()
