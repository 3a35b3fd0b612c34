"""Speaker verification: are two utterances of one voice?

A trial is a pair of utterances with a score, higher for "same speaker". Target
trials are of one speaker, non-target trials of two. With a threshold t,

    FNR(t) = share of target scores < t
    FPR(t) = share of non-target scores >= t

over all thresholds, from one that accepts everything to one that accepts
nothing.
"""

from typing import NamedTuple

import numpy as np

from unlearn_jax.datasets.trials import Trials

# Of cosines: what differs by less is rounding, and is made equal.
DECIMALS = 12
_MOST_TARGETS, _NONTARGETS = 2_000, 5  # Non-targets of each target.


class Verification(NamedTuple):
  """How well trials are told apart; nan where one class has no trial.

  Attributes:
    eer: equal error rate, in [0, 1].
    min_dcf_05: minimum detection cost for a prior of 5 percent, in [0, 1].
    min_dcf_01: for a prior of 1 percent.
  """

  eer: float
  min_dcf_05: float
  min_dcf_01: float


def eer(target_scores: np.ndarray, nontarget_scores: np.ndarray) -> float:
  """Returns the equal error rate: where FNR and FPR cross.

  Between neighbouring thresholds both are taken for linear. 0 where all targets
  score higher, 0.5 for equal scores, 1 where all targets score lower.

  >>> eer(np.array([0.9, 0.8, 0.6, 0.4]), np.array([0.7, 0.3, 0.2, 0.1]))
  0.25

  Args:
    target_scores: [targets], finite.
    nontarget_scores: [non-targets], finite.

  Returns:
    in [0, 1]; nan if either is empty.
  """
  if not len(target_scores) or not len(nontarget_scores):
    return float('nan')
  fnr, fpr = _error_rates(target_scores, nontarget_scores)
  excess = fnr - fpr  # Rises from -1 to 1.
  after = int(np.argmax(excess >= 0))
  low, high = excess[after - 1], excess[after]
  part = -low / (high - low)
  return float(fnr[after - 1] + part * (fnr[after] - fnr[after - 1]))


def min_dcf(
  target_scores: np.ndarray,
  nontarget_scores: np.ndarray,
  *,
  prior: float,
  c_miss: float = 1.0,
  c_fa: float = 1.0,
) -> float:
  r"""Returns the minimum of the normalised detection cost.

  .. math:: \min_t \frac{C_{miss} P FNR(t) + C_{fa} (1 - P) FPR(t)}
    {\min(C_{miss} P, C_{fa} (1 - P))}

  1 is the cost of the better constant answer, so no more is paid.

  Source: NIST 2016 Speaker Recognition Evaluation Plan, section 3.

  Args:
    target_scores: [targets], finite.
    nontarget_scores: [non-targets], finite.
    prior: P, of a target, in (0, 1).
    c_miss: cost of a missed target, > 0.
    c_fa: cost of a false alarm, > 0.

  Returns:
    in [0, 1]; nan if either is empty.

  Raises:
    ValueError: if the prior or a cost is out of bounds.
  """
  if not 0 < prior < 1:
    raise ValueError(f'prior must be in (0, 1), got {prior}.')
  if min(c_miss, c_fa) <= 0:
    raise ValueError(f'costs must be > 0, got {c_miss} and {c_fa}.')
  if not len(target_scores) or not len(nontarget_scores):
    return float('nan')
  fnr, fpr = _error_rates(target_scores, nontarget_scores)
  missed, alarmed = c_miss * prior, c_fa * (1 - prior)
  cost = (missed * fnr + alarmed * fpr).min() / min(missed, alarmed)
  return float(min(cost, 1.0))  # By rounding it may be a little more.


def _error_rates(target_scores, nontarget_scores):
  """Returns FNR and FPR at every score and beyond the last one."""
  target, nontarget = np.sort(target_scores), np.sort(nontarget_scores)
  values = np.unique(np.concatenate([target, nontarget]))
  thresholds = np.append(values, np.inf)
  fnr = np.searchsorted(target, thresholds) / len(target)
  fpr = 1 - np.searchsorted(nontarget, thresholds) / len(nontarget)
  return fnr, fpr


def normalised(embeddings: np.ndarray) -> np.ndarray:
  """Returns embeddings of length 1, float64; a zero vector stays one.

  Args:
    embeddings: [..., features].
  """
  embeddings = np.asarray(embeddings, np.float64)
  # First by the largest component, whose square neither overflows nor vanishes.
  largest = np.abs(embeddings).max(-1, keepdims=True, initial=0.0)
  scaled = embeddings / np.where(largest > 0, largest, 1.0)
  length = np.linalg.norm(scaled, axis=-1, keepdims=True)
  return scaled / np.where(length > 0, length, 1.0)


def cosine_scores(
  embeddings_a: np.ndarray, embeddings_b: np.ndarray
) -> np.ndarray:
  """Returns the cosine of the angle of each pair, [trials] in [-1, 1].

  Rounded to 12 decimals, so that pairs of equal vectors score the same. With a
  zero vector, which has no direction, it is 0.

  Args:
    embeddings_a: [trials, features].
    embeddings_b: [trials, features].

  Raises:
    ValueError: if the shapes differ or a number is not finite.
  """
  a, b = np.asarray(embeddings_a), np.asarray(embeddings_b)
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(
      'embeddings must be two arrays [trials, features], got '
      f'{a.shape} and {b.shape}.'
    )
  check_finite(a)
  check_finite(b)
  cosines = np.einsum('ij,ij->i', normalised(a), normalised(b))
  return np.round(cosines, DECIMALS).clip(-1.0, 1.0)


def check_finite(embeddings: np.ndarray) -> None:
  """Raises a `ValueError` that counts the embeddings that are not finite.

  Args:
    embeddings: [n, features].
  """
  if bad := int((~np.isfinite(embeddings)).any(-1).sum()):
    raise ValueError(
      f'embeddings must be finite, got {bad} of {len(embeddings)} that are not.'
    )


def verify(embeddings: np.ndarray, trials: Trials) -> Verification:
  """Scores trials by the cosine of their embeddings.

  The ideal is what a retrained model achieves: it verifies voices that it never
  heard, so it is not an EER of one half.

  Args:
    embeddings: [n, features].
    trials: of rows of the embeddings.

  Raises:
    ValueError: if an embedding is not finite.
  """
  embeddings = np.asarray(embeddings)
  check_finite(embeddings)
  scores = cosine_scores(embeddings[trials.first], embeddings[trials.second])
  sides = scores[trials.target], scores[~trials.target]
  return Verification(
    eer(*sides), min_dcf(*sides, prior=0.05), min_dcf(*sides, prior=0.01)
  )


def make_trials(
  speaker: np.ndarray,
  session: np.ndarray,
  keyword: np.ndarray,
  own: np.ndarray,
  others: np.ndarray,
  *,
  seed: int,
) -> Trials:
  """Chooses trials whose target speaker is one of some.

  Targets are pairs of one speaker from two sessions, so that a room or a
  microphone does not give the speaker away; of one keyword where the speaker
  said it in two sessions, else of any. Each target (a, b) has five non-targets
  (a, c), where c is of another speaker and says the keyword of b; any keyword
  if nobody else says it. So both kinds have the same mix of keywords, and what
  was said does not tell them apart.

  Args:
    speaker: [n].
    session: [n]; two speakers may share one.
    keyword: [n].
    own: [n] bool, utterances of the target speakers.
    others: [n] bool, utterances they are compared with; those of the same
      speaker are passed over.
    seed: of the choice.

  Returns:
    at most 2,000 targets; none where no speaker has two sessions.
  """
  rng = np.random.default_rng(seed)
  pairs = [np.zeros((2, 0), int)]
  for s in np.unique(speaker[own]):
    rows = np.flatnonzero(own & (speaker == s))
    ab = rows[np.array(np.triu_indices(len(rows), 1))]
    ab = ab[:, session[ab[0]] != session[ab[1]]]
    same = keyword[ab[0]] == keyword[ab[1]]
    pairs.append(ab[:, same] if same.any() else ab)
  a, b = rng.permutation(np.concatenate(pairs, 1), axis=1)[:, :_MOST_TARGETS]
  first, second = [a], [b]
  kinds = np.stack([speaker[a], keyword[b]])
  for s, word in np.unique(kinds, axis=1).T:
    mine = np.repeat(a[(kinds[0] == s) & (kinds[1] == word)], _NONTARGETS)
    pool = others & (speaker != s)
    alike = pool & (keyword == word)
    rows = np.flatnonzero(alike if alike.any() else pool)
    if len(rows):
      first.append(mine)
      second.append(rng.choice(rows, len(mine)))
  joined = np.concatenate(first), np.concatenate(second)
  return Trials(np.arange(len(joined[0])) < len(a), *joined)
