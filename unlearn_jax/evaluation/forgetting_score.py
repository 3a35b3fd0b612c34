r"""The forgetting score of the NeurIPS 2023 machine unlearning competition.

For each example, the best of many attackers says how far two worlds can be told
apart: models that unlearned it, and models that were retrained without it.

Source: Triantafillou et al., "Are we making progress in unlearning?", 2024,
https://arxiv.org/abs/2406.09073.
"""

import numpy as np

from unlearn_jax.evaluation.worlds import check_worlds

LEAST_MODELS = 3  # With two, no example could score anything.
_DELTA, _LARGEST, _NARROW = 1e-5, 50.0, 0.01


def epsilon(phi_u: np.ndarray, phi_r: np.ndarray) -> np.ndarray:
  r"""Returns how far the worlds of each example can be told apart, [examples].

  .. math::
    \epsilon = \max_t \max\{\log(1 - \delta - FPR_t) - \log FNR_t,
    \log(1 - \delta - FNR_t) - \log FPR_t\}, \delta = 10^{-5}

  over all thresholds between the values and over all intervals between two
  thresholds, where the world with the larger median is the positive one. A test
  with exactly one kind of error is left out: it shows that there are few
  models. In [0, 50]; lower is better, 0 is a world that looks like the other.

  Args:
    phi_u: [models, examples], logit confidences of unlearned models.
    phi_r: the same of retrained models.

  Returns:
    50 where a test makes no error, or where the range of one world is below one
    hundredth of the other's; nan where no test is left and the worlds differ.

  Raises:
    ValueError: if the examples differ, there are none, a value is not finite,
      or a world has fewer than 3 models.
  """
  check_worlds(phi_u, phi_r, least=LEAST_MODELS, name='the forgetting score')
  phi_u, phi_r = np.asarray(phi_u, np.float64), np.asarray(phi_r, np.float64)
  return np.array([_epsilon(u, r) for u, r in zip(phi_u.T, phi_r.T)])  # noqa: B905


def _epsilon(u, r):
  if np.array_equal(np.sort(u), np.sort(r)):
    return 0.0
  narrow, wide = sorted([np.ptp(u), np.ptp(r)])
  if not wide or narrow / wide < _NARROW:  # Two constants differ, see above.
    return _LARGEST if wide or u[0] != r[0] else 0.0
  if np.median(u) == np.median(r):  # Either world may be the positive one.
    return float(np.fmax(_best_test(u, r), _best_test(r, u)))
  return _best_test(*sorted((u, r), key=np.median, reverse=True))


def _best_test(positive, negative):
  """Returns the largest epsilon of all tests; nan if none is left."""
  values = np.unique(np.concatenate([positive, negative]))
  edges = (values[1:] + values[:-1]) / 2
  # Counts below each threshold; whole numbers, so that 0 is 0.
  below_p, below_n = (
    np.searchsorted(np.sort(world), edges) for world in (positive, negative)
  )
  first, last = np.triu_indices(len(edges), 1)
  inside_p = below_p[last] - below_p[first]
  inside_n = below_n[last] - below_n[first]
  tests = (  # Wrong about the positives, and about the negatives.
    (below_p, len(negative) - below_n),
    (len(positive) - inside_p, inside_n),
    (inside_p, len(negative) - inside_n),
  )
  missed, raised = (np.concatenate(part) for part in zip(*tests, strict=True))
  if ((missed == 0) & (raised == 0)).any():
    return _LARGEST
  use = (missed > 0) & (raised > 0)
  if not use.any():
    return float('nan')
  found = epsilon_of_rates(
    raised[use] / len(negative), missed[use] / len(positive)
  )
  return float(np.clip(found.max(), 0.0, _LARGEST))


def epsilon_of_rates(fpr: np.ndarray, fnr: np.ndarray) -> np.ndarray:
  """Returns the epsilon of tests with these error rates, both above 0.

  -inf where a rate is so large that a logarithm has no argument.
  """

  def log(x):
    return np.log(np.where(x > 0, x, 1)) + np.where(x > 0, 0, -np.inf)

  return np.maximum(
    log(1 - _DELTA - fpr) - np.log(fnr), log(1 - _DELTA - fnr) - np.log(fpr)
  )


def quality(epsilons: np.ndarray, num_models: int) -> np.ndarray:
  r"""Returns what each example scores: :math:`2^{-\lfloor 2\epsilon \rfloor}`.

  In [0, 1]; 0 from :math:`\lceil\log(N - 1)\rceil` on, which is as far as N
  models can see. Coarse for fewer than 64 models.

  Args:
    epsilons: [examples], from `epsilon`; nan stays nan.
    num_models: N, of the smaller world, at least 3.

  Raises:
    ValueError: if there are fewer than 3 models.
  """
  if num_models < LEAST_MODELS:
    raise ValueError(
      f'the forgetting score needs {LEAST_MODELS} models in each world, got '
      f'{num_models}.'
    )
  epsilons = np.asarray(epsilons, np.float64)
  cut = np.ceil(np.log(num_models - 1))
  score = 2.0 ** -np.floor(2 * np.nan_to_num(epsilons))
  score = np.where(epsilons < cut, score, 0.0)
  return np.where(np.isnan(epsilons), np.nan, score)


def forgetting_quality(phi_u: np.ndarray, phi_r: np.ndarray) -> float:
  """Returns F, the mean quality over the examples that have one.

  In [0, 1], higher is better. The ideal is that of one half of the retrained
  models against the other, which is below 1 for any finite number of models.

  Args and errors as in `epsilon`.
  """
  scores = quality(epsilon(phi_u, phi_r), min(len(phi_u), len(phi_r)))
  scored = scores[~np.isnan(scores)]
  return float(scored.mean()) if len(scored) else float('nan')


def final_score(
  forgetting: float,
  *,
  retain_u: float,
  retain_r: float,
  test_u: float,
  test_r: float,
) -> float:
  """Returns F times the ratios of retain and test accuracy to retraining's.

  Args:
    forgetting: F.
    retain_u: accuracy of the unlearned models on the retain set.
    retain_r: the same of the retrained models; nan is returned for 0.
    test_u: on the test set.
    test_r: the same of the retrained models; nan is returned for 0.
  """
  if not (retain_r and test_r):
    return float('nan')
  return forgetting * (retain_u / retain_r) * (test_u / test_r)
