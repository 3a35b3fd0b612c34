"""Group privacy, and epsilon of DP-SGD against closed forms."""

import importlib.util
import math
import unittest

from absl.testing import absltest
from absl.testing import parameterized
from scipy import optimize
from scipy import stats

from unlearn_jax.training.accounting import epsilon
from unlearn_jax.training.accounting import group_privacy

NAN = float('nan')

needs_accountant = unittest.skipIf(
  importlib.util.find_spec('dp_accounting') is None,
  'dp-accounting is not installed',
)


def gaussian_epsilon(noise_multiplier, steps, delta):
  """Exact epsilon of `steps` Gaussian mechanisms (Balle and Wang, 2018)."""
  mu = math.sqrt(steps) / noise_multiplier

  def excess(eps):
    first, second = stats.norm.cdf([mu / 2 - eps / mu, -mu / 2 - eps / mu])
    return first - math.exp(eps) * second - delta

  return optimize.brentq(excess, 0.0, 100.0)


class GroupPrivacyTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.5, 1e-5, 1, 0.5, 1e-5),
    (1.0, 1e-6, 5, 5.0, 5 * math.exp(4.0) * 1e-6),
    (0.0, 1e-6, 100, 0.0, 1e-4),
    (2.0, 0.0, 7, 14.0, 0.0),
    (2.0, 1e-6, 1000, 2000.0, 1.0),
    (1e300, 1e-300, 10, 1e301, 1.0),
    (0.0, 0.5, 3, 0.0, 1.0),
  )
  def test_values(self, epsilon, delta, k, want_epsilon, want_delta):
    got_epsilon, got_delta = group_privacy(epsilon, delta, k)
    self.assertAlmostEqual(got_epsilon / want_epsilon if want_epsilon else 1, 1)
    self.assertAlmostEqual(got_delta / want_delta if want_delta else 1, 1)
    self.assertEqual(got_epsilon == 0, want_epsilon == 0)
    self.assertEqual(got_delta == 0, want_delta == 0)

  def test_is_no_less_than_the_chain_over_neighbours(self):
    for eps in (0.1, 1.0, 3.0):
      for k in (1, 2, 5):
        chain = sum(math.exp(i * eps) for i in range(k)) * 1e-9
        _, delta = group_privacy(eps, 1e-9, k)
        self.assertGreaterEqual(delta, chain * (1 - 1e-12))
        self.assertLessEqual(delta, k * chain * (1 + 1e-12))

  @parameterized.parameters(
    (-0.1, 0.1, 1, 'epsilon must be >= 0, got -0.1'),
    (NAN, 0.1, 1, 'epsilon must be >= 0, got nan'),
    (1.0, -0.1, 1, r'delta must be in \[0, 1\], got -0.1'),
    (1.0, 1.5, 1, r'delta must be in \[0, 1\], got 1.5'),
    (1.0, 0.1, 0, 'k must be >= 1, got 0'),
  )
  def test_bounds(self, epsilon, delta, k, message):
    with self.assertRaisesRegex(ValueError, message):
      group_privacy(epsilon, delta, k)


class EpsilonTest(parameterized.TestCase):
  @parameterized.parameters((4.0, 10), (1.0, 1), (2.0, 100))
  @needs_accountant
  def test_without_sampling_it_is_that_of_the_gaussian(self, sigma, steps):
    got = epsilon(sigma, 1.0, steps, 1e-5)
    want = gaussian_epsilon(sigma, steps, 1e-5)
    self.assertBetween(got, want * (1 - 1e-6), want * 1.001)

  @needs_accountant
  def test_sampling_amplifies(self):
    sampled, all_at_once = (epsilon(1.0, q, 100, 1e-5) for q in (0.01, 1.0))
    self.assertLess(sampled, 0.1 * all_at_once)
    self.assertGreater(sampled, epsilon(2.0, 0.01, 100, 1e-5))

  def test_no_steps_cost_nothing(self):
    self.assertEqual(epsilon(1.0, 0.1, 0, 1e-5), 0.0)

  @parameterized.parameters(
    (0.0, 0.1, 1, 0.1, 'noise_multiplier must be > 0, got 0.0'),
    (NAN, 0.1, 1, 0.1, 'noise_multiplier must be > 0, got nan'),
    (1.0, 0.0, 1, 0.1, r'sampling_rate must be in \(0, 1\], got 0.0'),
    (1.0, 1.5, 1, 0.1, r'sampling_rate must be in \(0, 1\], got 1.5'),
    (1.0, 0.1, -1, 0.1, 'steps must be >= 0, got -1'),
    (1.0, 0.1, 1, 0.0, r'delta must be in \(0, 1\), got 0.0'),
    (1.0, 0.1, 1, 1.0, r'delta must be in \(0, 1\), got 1.0'),
  )
  def test_bounds(self, sigma, rate, steps, delta, message):
    with self.assertRaisesRegex(ValueError, message):
      epsilon(sigma, rate, steps, delta)


if __name__ == '__main__':
  absltest.main()
