r"""U-LiRA: is an example's influence gone, judged by populations of models?

World U: models that were trained with x and then unlearned it. World R: models
that never saw x. An attacker who knows both worlds tells them apart by the
logit confidence of x; where unlearning is exact, no better than by chance.

Source: Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to
Avoid a False Sense of Privacy", 2024, https://arxiv.org/abs/2403.01218; the
likelihood ratio is that of Carlini et al., 2022,
https://arxiv.org/abs/2112.03570.
"""

import dataclasses
from typing import Literal

import numpy as np
import scipy.special
import scipy.stats

from unlearn_jax.evaluation import roc
from unlearn_jax.evaluation.worlds import check_worlds

Density = Literal['gaussian', 'kde']

LEAST_MEMBERS = 4  # A world is cut in halves, and a variance needs two.
_POOL_BELOW = 16
_LEAST_SD, _LEAST_BANDWIDTH, _MOST_RATIO = 1e-3, 1e-3, 50.0


def logit_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  r"""Returns :math:`\phi = \log p_y - \log(1 - p_y)`, float64 [...].

  By the log-sum-exp of the other logits, so that it does not saturate.

  Args:
    logits: [..., classes], at least two classes.
    labels: [...] int, which may lack leading axes, such as that of members.

  Raises:
    ValueError: if a label is out of range, or there is one class alone.
  """
  logits = np.asarray(logits, np.float64)
  classes = logits.shape[-1]
  labels = np.broadcast_to(labels, logits.shape[:-1])[..., None]
  if classes < 2:
    raise ValueError(f'there must be >= 2 classes, got {classes}.')
  if labels.size and not 0 <= labels.min() <= labels.max() < classes:
    raise ValueError(
      f'labels must be in [0, {classes}), got {labels.min()} to {labels.max()}.'
    )
  own = np.take_along_axis(logits, labels, -1)[..., 0]
  others = logits.copy()
  np.put_along_axis(others, labels, -np.inf, -1)
  return own - scipy.special.logsumexp(others, axis=-1)


@dataclasses.dataclass(frozen=True)
class UliraResult:
  """What the attacker achieves; of each pair of an example and a model.

  Attributes:
    scores: log-likelihood ratios [pairs], in [-50, 50]; above 0 says "was
      unlearned".
    unlearned: [pairs] bool, the truth.
    model: [pairs] int, rows of `phi_u` or of `phi_r`.
    example: [pairs] int, columns of the input.
    accuracy: balanced over the two worlds, in [0, 1]; 0.5 is chance, and the
      ideal.
    auc: area under the ROC curve, ties count half; ideal 0.5.
    tpr_at_1e2: true positive rate at a false positive rate of 1 percent; ideal
      0.01; nan with fewer than 1,000 pairs in world R.
    tpr_at_1e3: the same at 0.1 percent; nan with fewer than 10,000.
    example_accuracy: balanced accuracy [examples]; nan where an example has
      fewer than four models in a world.
  """

  scores: np.ndarray
  unlearned: np.ndarray
  model: np.ndarray
  example: np.ndarray
  accuracy: float
  auc: float
  tpr_at_1e2: float
  tpr_at_1e3: float
  example_accuracy: np.ndarray

  def model_accuracy(self) -> np.ndarray:
    """Returns the balanced accuracy on each model of one population, [models].

    For populations whose members are in both worlds, of different examples. An
    interval over models is the wider one: examples share the models. nan where
    a model was attacked in one world alone.
    """
    sign = np.where(self.unlearned, 1, -1)
    right = (sign * self.scores > 0) + 0.5 * (self.scores == 0)
    shares = []
    for world in (self.unlearned, ~self.unlearned):
      size = self.model.max() + 1
      count = np.bincount(self.model[world], minlength=size)
      total = np.bincount(self.model[world], right[world], minlength=size)
      shares.append(np.where(count, total / np.maximum(count, 1), np.nan))
    return (shares[0] + shares[1]) / 2


def ulira(
  phi_u: np.ndarray,
  phi_r: np.ndarray,
  *,
  in_u: np.ndarray | None = None,
  in_r: np.ndarray | None = None,
  density: Density = 'gaussian',
) -> UliraResult:
  """Fits both worlds on half of the models and attacks the other half; swaps.

  Args:
    phi_u: logit confidences [models, examples] of models that unlearned.
    phi_r: the same [models, examples] of models that never saw.
    in_u: [models, examples] bool, which models have unlearned which example;
      None is all. In a population where each saw half of the data, one array
      serves all examples.
    in_r: likewise, which models never saw which example.
    density: 'gaussian', whose variance is pooled over the examples if fewer
      than 16 models are fitted on, or 'kde' with Silverman's bandwidth.

  Raises:
    ValueError: if shapes differ, a value that counts is not finite, there is no
      example, or no example has four models in both worlds.
  """
  phi_u, phi_r = np.asarray(phi_u, np.float64), np.asarray(phi_r, np.float64)
  in_u, in_r = _check(phi_u, phi_r, in_u, in_r)
  enough = (in_u.sum(0) >= LEAST_MEMBERS) & (in_r.sum(0) >= LEAST_MEMBERS)
  if not enough.any():
    raise ValueError(
      f'U-LiRA needs {LEAST_MEMBERS} models in each world of an example, got '
      f'at most {in_u.sum(0).max()} that unlearned it and {in_r.sum(0).max()} '
      'that never saw it.'
    )
  halves_u, halves_r = _halves(in_u), _halves(in_r)
  scores_u = np.full(phi_u.shape, np.nan)
  scores_r = np.full(phi_r.shape, np.nan)
  for half in (0, 1):
    attacked_u, attacked_r = halves_u == half, halves_r == half
    worlds = (
      _fit(phi_u, halves_u == 1 - half, enough, density),
      _fit(phi_r, halves_r == 1 - half, enough, density),
    )
    for phi, attacked, scores in (
      (phi_u, attacked_u, scores_u),
      (phi_r, attacked_r, scores_r),
    ):
      ratio = np.clip(
        worlds[0](phi) - worlds[1](phi), -_MOST_RATIO, _MOST_RATIO
      )
      use = attacked & enough
      scores[use] = ratio[use]
  return _summary(scores_u, scores_r)


def _check(phi_u, phi_r, in_u, in_r):
  """Returns the masks; raises a ValueError where something does not fit."""
  masks = []
  for name, phi, inside in (('u', phi_u, in_u), ('r', phi_r, in_r)):
    inside = np.ones(phi.shape, bool) if inside is None else np.asarray(inside)
    if inside.shape != phi.shape:
      raise ValueError(
        f'in_{name} must have the shape of phi_{name}, {phi.shape}, got '
        f'{inside.shape}.'
      )
    masks.append(inside)
  looked_at = [
    np.where(inside, phi, 0.0)
    for inside, phi in zip(masks, (phi_u, phi_r), strict=True)
  ]
  check_worlds(*looked_at, least=LEAST_MEMBERS, name='U-LiRA')
  return masks


def _halves(inside):
  """Deals the models of each example out in turn: 0, 1, and -1 for outside."""
  return np.where(inside, (np.cumsum(inside, axis=0) - 1) % 2, -1)


def _fit(phi, fitted, enough, density):
  """Returns the log density of [models, examples] under the fitted models."""
  values = np.where(fitted, phi, np.nan)[:, enough]
  if density == 'gaussian':
    return _gaussian(values, enough)
  if density == 'kde':
    return _kde(values, enough)
  raise ValueError(f"density must be gaussian or kde, got '{density}'.")


def _gaussian(values, enough):
  count = (~np.isnan(values)).sum(0)
  mean, variance = np.nanmean(values, 0), np.nanvar(values, 0, ddof=1)
  few = count < _POOL_BELOW
  pooled = np.average(variance, weights=count - 1)
  sd = np.maximum(np.sqrt(np.where(few, pooled, variance)), _LEAST_SD)

  def log_density(phi):
    found = np.full(phi.shape, np.nan)
    found[:, enough] = scipy.stats.norm.logpdf(phi[:, enough], mean, sd)
    return found

  return log_density


def bandwidth(values: np.ndarray) -> np.ndarray:
  """Silverman's, of each column of [models, examples]; nan is left out.

  0.9 min(sd, IQR / 1.34) n^(-1/5), at least 1e-3.
  """
  low, high = np.nanpercentile(values, [25, 75], axis=0)
  spread = np.minimum(np.nanstd(values, 0, ddof=1), (high - low) / 1.34)
  count = (~np.isnan(values)).sum(0)
  return np.maximum(0.9 * spread * count**-0.2, _LEAST_BANDWIDTH)


def kde_log_density(
  phi: np.ndarray, values: np.ndarray, width: np.ndarray
) -> np.ndarray:
  """Log density of a Gaussian kernel estimate, column by column.

  Args:
    phi: [points, examples].
    values: [models, examples] that it is fitted on; nan is left out.
    width: bandwidths [examples].

  Returns:
    [points, examples].
  """
  inside = ~np.isnan(values)
  scaled = np.where(inside, values, np.inf) / width

  def log_density(point):  # One at a time: all would take models x models.
    exponents = -0.5 * np.square(point / width - scaled)
    largest = exponents.max(0)
    return largest + np.log(np.exp(exponents - largest).sum(0))

  scale = inside.sum(0) * width * np.sqrt(2 * np.pi)
  return np.stack([log_density(p) for p in phi]) - np.log(scale)


def _kde(values, enough):
  width = bandwidth(values)

  def log_density(phi):
    found = np.full(phi.shape, np.nan)
    found[:, enough] = kde_log_density(phi[:, enough], values, width)
    return found

  return log_density


def _summary(scores_u, scores_r):
  """Joins the scores of both worlds; nan was not attacked."""
  places = [np.nonzero(~np.isnan(scores)) for scores in (scores_u, scores_r)]
  model, example = (np.concatenate(axis) for axis in zip(*places, strict=True))
  u, r = (s[~np.isnan(s)] for s in (scores_u, scores_r))
  scores = np.concatenate([u, r])
  return UliraResult(
    scores=scores,
    unlearned=np.arange(len(scores)) < len(u),
    model=model,
    example=example,
    accuracy=float(_accuracy(u[:, None], r[:, None])[0]),
    auc=roc.auc(u, r),
    tpr_at_1e2=roc.tpr_at(u, r, 1e-2),
    tpr_at_1e3=roc.tpr_at(u, r, 1e-3),
    example_accuracy=_accuracy(scores_u, scores_r),
  )


def _accuracy(scores_u, scores_r):
  """Balanced accuracy of each column; a ratio of 0 is half right."""

  def share(scores, sign):
    right = (sign * scores > 0) + 0.5 * (scores == 0)
    attacked = ~np.isnan(scores)
    count = attacked.sum(0)
    total = np.where(attacked, right, 0).sum(0)
    return np.where(count, total / np.maximum(count, 1), np.nan)

  return (share(scores_u, 1) + share(scores_r, -1)) / 2
