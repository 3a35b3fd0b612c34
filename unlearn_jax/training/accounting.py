r"""What DP-SGD guarantees, and what that says about unlearning.

A model trained with an (epsilon, delta) guarantee is, without any deletion
step, (epsilon, delta)-indistinguishable from one trained without some one
example. For a forget set of k examples the guarantee is weaker: see
`group_privacy`.
"""

import math


def epsilon(
  noise_multiplier: float, sampling_rate: float, steps: int, delta: float
) -> float:
  """Returns the epsilon of DP-SGD with Poisson-sampled batches.

  Neighbours differ by one example added or removed. The bound is that of
  privacy-loss distributions, and pessimistic.

  Args:
    noise_multiplier: sigma, above 0.
    sampling_rate: q, the probability that an example is in a batch, in (0, 1].
      Where each example stands in one batch an epoch instead: 1.
    steps: at least 0; where each example stands in one batch an epoch, the
      number of epochs.
    delta: in (0, 1).

  Raises:
    ValueError: if an argument is out of bounds.
    ImportError: without the package `dp-accounting`.

  References:
    Doroshenko et al., 2022, https://arxiv.org/abs/2207.04380.
  """
  if not noise_multiplier > 0:
    raise ValueError(f'noise_multiplier must be > 0, got {noise_multiplier}.')
  if not 0 < sampling_rate <= 1:
    raise ValueError(f'sampling_rate must be in (0, 1], got {sampling_rate}.')
  if not steps >= 0:
    raise ValueError(f'steps must be >= 0, got {steps}.')
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  if steps == 0:
    return 0.0
  import dp_accounting  # Of the extra `privacy`, and slow to import.
  from dp_accounting import pld

  step = dp_accounting.PoissonSampledDpEvent(
    sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
  )
  accountant = pld.PLDAccountant()
  accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
  return float(accountant.get_epsilon(delta))


def group_privacy(epsilon: float, delta: float, k: int) -> tuple[float, float]:
  r"""Returns the guarantee for k examples from that for one.

  .. math:: (k \epsilon, \; k e^{(k - 1) \epsilon} \delta)

  It is the bound for one example, used k times in a row; the terms of delta,
  :math:`\sum_{i < k} e^{i \epsilon} \delta`, are each taken for the largest.

  Args:
    epsilon: at least 0.
    delta: in [0, 1].
    k: examples that are removed together, at least 1.

  Returns:
    epsilon and delta; a delta of 1, which guarantees nothing, where the bound
    is no less.

  Raises:
    ValueError: if an argument is out of bounds.
  """
  if not epsilon >= 0:
    raise ValueError(f'epsilon must be >= 0, got {epsilon}.')
  if not 0 <= delta <= 1:
    raise ValueError(f'delta must be in [0, 1], got {delta}.')
  if not k >= 1:
    raise ValueError(f'k must be >= 1, got {k}.')
  if delta == 0:
    return k * epsilon, 0.0
  # In logarithms, since the exponential of a large group overflows.
  log_delta = math.log(k) + (k - 1) * epsilon + math.log(delta)
  return k * epsilon, math.exp(min(log_delta, 0.0))
