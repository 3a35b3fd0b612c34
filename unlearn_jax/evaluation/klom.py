r"""KLoM: divergence between the margins of unlearned and of retrained models.

Source: Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel
Matching", 2024, https://arxiv.org/abs/2410.23232.
"""

import numpy as np

from unlearn_jax.evaluation.worlds import check_worlds

_LEAST_SHARE, _LARGEST_MARGIN = 1e-5, 100.0


def klom(phi_u: np.ndarray, phi_r: np.ndarray, *, bins: int = 20) -> np.ndarray:
  r"""Returns :math:`KL(p_u || p_r)` of histograms of the margins, [examples].

  In [0, about 11.5] nats; lower is better. The ideal is not 0 but the value of
  one half of the retrained models against the other, which falls with the
  number of models; 100 are usual. Report its mean, median and 95th percentile
  over the forget, retain and validation sets.

  Args:
    phi_u: [models, examples], margins of unlearned models: logit confidences,
      see `evaluation.ulira`; clipped to [-100, 100].
    phi_r: the same of retrained models.
    bins: of equal width over the joint range of an example; the last one is
      closed.

  Raises:
    ValueError: if the examples differ, there are none, a margin is not finite,
      a world has fewer than 2 models, or `bins` is below 2.
  """
  check_worlds(phi_u, phi_r, least=2, name='KLoM')
  if bins < 2:
    raise ValueError(f'bins must be >= 2, got {bins}.')
  phi_u, phi_r = (
    np.clip(np.asarray(phi, np.float64), -_LARGEST_MARGIN, _LARGEST_MARGIN)
    for phi in (phi_u, phi_r)
  )
  return np.array([_divergence(u, r, bins) for u, r in zip(phi_u.T, phi_r.T)])  # noqa: B905


def _divergence(u, r, bins):
  low, high = min(u.min(), r.min()), max(u.max(), r.max())
  if (np.diff(np.linspace(low, high, bins + 1)) <= 0).any():
    return 0.0  # Equal, or apart by rounding alone: too narrow for the bins.
  p, q = (
    np.histogram(values, bins, (low, high))[0] / len(values)
    for values in (u, r)
  )
  q = np.maximum(q, _LEAST_SHARE)
  q /= q.sum()
  filled = p > 0
  found = (p[filled] * np.log(p[filled] / q[filled])).sum()
  return max(float(found), 0.0)
