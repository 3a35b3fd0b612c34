"""What is left of a speaker in the embeddings of a model.

A classifier that no longer names a speaker may still embed the voice so that an
adversary recognises it. Everything here looks at frozen embeddings, and its
ideal is the value of a retrained model: a good embedding tells apart voices
that it never heard, so chance is not the goal.

| metric | question |
|---|---|
| leakage.eer.forgotten | is this the voice of the forgotten speaker? |
| leakage.probe.auc | can a linear probe learn to point the speaker out? |
| leakage.enrolment.5 | who is speaking, after five clips of everyone? |
| leakage.speaker_probe | how well can all speakers be told apart? |

What is compared with what is said by a `speaker_panel.Panel`.
"""

import numpy as np
import sklearn.discriminant_analysis
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import threadpoolctl

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import roc
from unlearn_jax.evaluation import verification
from unlearn_jax.evaluation.speaker_panel import ENROLLED
from unlearn_jax.evaluation.speaker_panel import FOLDS
from unlearn_jax.evaluation.speaker_panel import Panel

_LEAST_PROBED = 10


# On problems this small, threads that wait for each other cost up to 20 times
# as much as they save.
@threadpoolctl.threadpool_limits.wrap(limits=1, user_api='blas')
def leakage(panel: Panel, embeddings: np.ndarray) -> dict[str, float]:
  """Measures one model.

  Args:
    panel: of the utterances.
    embeddings: [n, features], in the order of the labels that made the panel.

  Returns:
    values by the names in `metrics.METRICS`; without forgotten speakers, only
    those that are not of them. nan is what too few utterances leave undefined.

  Raises:
    ValueError: if there are not n embeddings, or one is not finite.
  """
  embeddings = np.asarray(embeddings, np.float64)
  if embeddings.ndim != 2 or len(embeddings) != len(panel.order):
    raise ValueError(
      f'embeddings must be [{len(panel.order)}, features], got '
      f'{embeddings.shape}.'
    )
  verification.check_finite(embeddings)
  embeddings, values = embeddings[panel.order], {}
  for side, trials in panel.trials.items():
    verified = verification.verify(embeddings, trials)
    values[f'leakage.eer.{side}'] = verified.eer
    values[f'leakage.min_dcf.{side}'] = verified.min_dcf_05
  retained = np.setdiff1d(panel.speaker, panel.forgotten)
  unit = verification.normalised(embeddings)
  if panel.forgotten:
    values |= _probes(panel, embeddings)
    for clips in ENROLLED:
      values[f'leakage.enrolment.{clips}'] = _recognised(
        panel, unit, clips, panel.forgotten
      )
  values['leakage.enrolment_retained.5'] = _recognised(panel, unit, 5, retained)
  values['leakage.speaker_probe'] = _speaker_probe(panel, embeddings)
  return values


def _nanmean(values):
  values = np.array(values)[~np.isnan(values)]
  return float(values.mean()) if len(values) else float('nan')


def _probes(panel, embeddings):
  """Points forgotten speakers out, folds apart in session; the means."""
  found = {name: [] for name in ('accuracy', 'auc', 'shuffled')}
  for rows, own, shuffled in panel.probes:
    x, fold = embeddings[rows], panel.fold[rows]
    for k in range(FOLDS) if own.sum() >= _LEAST_PROBED else ():
      of_own = _fitted(x, own, fold == k)
      found['accuracy'].append(of_own[0])
      found['auc'].append(of_own[1])
      found['shuffled'] += [_fitted(x, y, fold == k)[0] for y in shuffled]
  return {f'leakage.probe.{name}': _nanmean(v) for name, v in found.items()}


def _fitted(x, labels, is_test):
  """Returns balanced accuracy and AUC of a logistic regression on a fold."""
  fit, test = labels[~is_test], labels[is_test]
  if len(np.unique(fit)) < 2 or len(np.unique(test)) < 2:
    return float('nan'), float('nan')
  model = sklearn.pipeline.make_pipeline(
    sklearn.preprocessing.StandardScaler(),
    sklearn.linear_model.LogisticRegression(C=1.0, max_iter=1_000),
  )
  scores = model.fit(x[~is_test], fit).decision_function(x[is_test])
  return (
    accuracy.balanced_accuracy(test, scores > 0),
    roc.auc(scores[test], scores[~test]),
  )


def _recognised(panel, unit, clips, speakers):
  """Share of clips that are nearest to the centroid of their speaker.

  Each speaker is enrolled with `clips` utterances, or with all if there are
  fewer. All that tie for the nearest share the clip.
  """
  count = np.bincount(panel.speaker)
  speakers = [s for s in speakers if count[s] > clips]
  shares = []
  for enrolled in panel.enrolled[:, :, :clips] if speakers else ():
    tested = np.isin(panel.speaker, speakers)
    tested[enrolled] = False
    who = panel.speaker[tested]
    centroids = verification.normalised(unit[enrolled].mean(1))
    cosines = np.round(unit[tested] @ centroids.T, verification.DECIMALS)
    nearest = cosines == cosines.max(1, keepdims=True)
    own = nearest[np.arange(len(who)), who] / nearest.sum(1)
    recognised = np.bincount(who, own, len(count))[speakers]
    shares.append((recognised / (count[speakers] - clips)).mean())
  return _nanmean(shares)


def _speaker_probe(panel, embeddings):
  """Balanced accuracy of a linear probe of all speakers, folds by session.

  Linear discriminant analysis finds as much as logistic regression (within
  0.02 of 30 speakers) in a thirtieth of the time.
  """
  speaker, predicted = panel.speaker, np.full(len(panel.speaker), -1)
  cell = speaker * FOLDS + panel.fold
  sizes = np.bincount(cell, minlength=len(panel.enrolled[0]) * FOLDS)
  sizes = sizes.reshape(-1, FOLDS)
  # Two utterances to learn from, whichever fold is left out.
  known = (sizes.sum(1) - sizes.max(1) > 1)[speaker]
  for k in np.unique(panel.fold[known]):
    is_test = known & (panel.fold == k)
    fit = known & ~is_test
    count = len(np.unique(speaker[fit]))
    if count < 2:
      return float('nan')
    model = sklearn.pipeline.make_pipeline(
      sklearn.preprocessing.StandardScaler(),
      sklearn.discriminant_analysis.LinearDiscriminantAnalysis(
        solver='lsqr', shrinkage=1e-3, priors=np.full(count, 1 / count)
      ),
    )
    model.fit(embeddings[fit], speaker[fit])
    predicted[is_test] = model.predict(embeddings[is_test])
  return accuracy.balanced_accuracy(speaker[known], predicted[known])
