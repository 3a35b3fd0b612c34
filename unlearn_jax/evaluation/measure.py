"""The numbers of one run, of a pair of runs, and beside original and retrain.

A new metric is one value here and one row in `metrics.METRICS`.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np
import scipy.stats

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import composite
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import matching
from unlearn_jax.evaluation import outputs
from unlearn_jax.evaluation import population_mia as mia
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import SETS
from unlearn_jax.evaluation.outcome import Subsets

DISTANCES = (
  'distance.js',
  'distance.activation',
  'distance.loss_wasserstein',
  'tow',
)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """What one run says of itself.

  Attributes:
    values: by name in `metrics`.
    sizes: examples in each set.
    test_labels: [n] of the classes that the model should know.
    test_predictions: [n].
    forget_probabilities: [forget, classes].
    forget_losses: [forget].
    notes: what one must know of the values.
  """

  values: Mapping[str, float]
  sizes: Mapping[str, int]
  test_labels: np.ndarray
  test_predictions: np.ndarray
  forget_probabilities: np.ndarray
  forget_losses: np.ndarray
  notes: tuple[str, ...] = ()


def measure(outcome: Outcome, subsets: Subsets) -> Measured:
  """Measures a run.

  Where whole classes are forgotten, validation and test metrics leave their
  examples out, which count apart as `test_forgotten`: that a model has lost
  them is no loss of utility.

  Args:
    outcome: of the run.
    subsets: labels of the same sets.

  Raises:
    ValueError: if logits and labels do not fit.
  """
  _check(outcome, subsets)
  losses = {
    name: mia.cross_entropy(outcome.logits[name], subsets.labels[name])
    for name in SETS
  }
  rows = {name: np.arange(len(subsets.labels[name])) for name in SETS}
  if subsets.forgotten_classes:
    for name in ('validation', 'test'):
      gone = np.isin(subsets.labels[name], subsets.forgotten_classes)
      rows[name] = np.flatnonzero(~gone)
      if name == 'test':
        rows['test_forgotten'] = np.flatnonzero(gone)
  labels, logits = {}, {}
  for name, mine in rows.items():
    of = name.removesuffix('_forgotten')
    labels[name] = subsets.labels[of][mine]
    logits[name] = outcome.logits[of][mine]
  predictions = {name: logits[name].argmax(-1) for name in labels}
  values: dict[str, float] = {}
  for name in labels:
    pair = labels[name], predictions[name]
    values[f'accuracy.{name}'] = accuracy.accuracy(*pair)
    values[f'balanced_accuracy.{name}'] = accuracy.balanced_accuracy(*pair)
    values[f'macro_f1.{name}'] = accuracy.macro_f1(*pair)
  test = labels['test'], predictions['test']
  values['collapse.excess'] = collapse.excess(*test)
  values['collapse.prediction_entropy'] = collapse.prediction_entropy(*test)
  forget_losses = losses['forget']
  values['loss.forget'] = _mean(forget_losses)
  sizes = {name: len(mine) for name, mine in rows.items()}
  attacks, sizes['matched'] = _attacks(
    losses, {name: losses[name][rows[name]] for name in SETS}, subsets
  )
  values |= attacks
  features = [
    mia.confidence_features(logits[name], labels[name])
    for name in ('forget', 'retain', 'test')
  ]
  values['mia.svc_five'] = mia.svc_five(*features)
  values['mia.entropy'] = mia.entropy_attack(*features)
  forget_p = outputs.probabilities(logits['forget'])
  if subsets.untrained is not None:
    untrained = outputs.probabilities(subsets.untrained)
    values['zrf'] = outputs.zrf(forget_p, untrained)
  values |= {f'cost.{k}': v for k, v in outcome.cost.items()}
  values |= outcome.inner
  clipped = sum(int((x >= mia.MAX_LOSS).sum()) for x in losses.values())
  notes = (f'{clipped} losses clipped at {mia.MAX_LOSS:g}',) if clipped else ()
  return Measured(values, sizes, *test, forget_p, forget_losses, notes)


def _check(outcome, subsets):
  for name in SETS:
    logits, labels = outcome.logits[name], subsets.labels[name]
    if logits.ndim != 2 or len(logits) != len(labels):
      raise ValueError(
        f'{outcome.method}: logits of the {name} set must be [{len(labels)}, '
        f'classes], got {logits.shape}.'
      )
    classes = logits.shape[1]
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
      raise ValueError(
        f'labels of the {name} set must be in [0, {classes}), got '
        f'{labels.min()} to {labels.max()}.'
      )


def _attacks(losses, known, subsets):
  """Returns the attacks by loss, and how many pairs were matched.

  Args:
    losses: of all examples of each set.
    known: the same without classes that are forgotten whole.
    subsets: of the losses.
  """
  members, others = match(subsets)
  sides = losses['forget'][members], losses['test'][others]
  threshold = mia.loss_threshold(*sides)
  values = {
    f'mia.loss_threshold.{name}': value
    for name, value in threshold._asdict().items()
  }
  # An attacker may as well take a high loss for the sign of a member.
  values['mia.loss_threshold.auc_either_way'] = 0.5 + abs(threshold.auc - 0.5)
  values['mia.loss_logistic'] = mia.loss_logistic(*sides)
  values['mia.paper_loss'] = mia.paper_loss(
    known['forget'], known['retain'], known['test']
  )
  return values, len(members)


def match(
  subsets: Subsets, others: str = 'test'
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs examples of the forget set with non-members that are like them.

  Args:
    subsets: labels and properties of the sets.
    others: the set of the non-members.

  Returns:
    indices into the forget set and into the others, both [pairs].
  """
  properties = [
    [subsets.labels[name], *(p[name] for p in subsets.properties.values())]
    for name in ('forget', others)
  ]
  return matching.match(*properties)


def forget_losses(
  outcome: Outcome, subsets: Subsets
) -> tuple[np.ndarray, np.ndarray]:
  """Returns losses of the forget set and of as many non-members that match.

  Args:
    outcome: of a run.
    subsets: of its sets.
  """
  rows = dict(zip(('forget', 'test'), match(subsets), strict=True))
  forget, test = (
    mia.cross_entropy(outcome.logits[name][i], subsets.labels[name][i])
    for name, i in rows.items()
  )
  return forget, test


def between(first: Measured, second: Measured) -> dict[str, float]:
  """Returns `DISTANCES` between two runs on the same sets.

  Args:
    first: of any method.
    second: of a retrained model of the same seed.
  """
  p, q = first.forget_probabilities, second.forget_probabilities
  losses = first.forget_losses, second.forget_losses
  found = (
    outputs.js_to_retrain(p, q),
    outputs.activation_distance(p, q),
    float(scipy.stats.wasserstein_distance(*losses))
    if len(losses[0])
    else float('nan'),
    gaps.tug_of_war(first.values, second.values),
  )
  return dict(zip(DISTANCES, found, strict=True))


def beside(
  values: Mapping[str, float],
  retrained: Mapping[str, float] | None,
  original: Mapping[str, float],
  *,
  classes: int,
  removes_classes: bool,
) -> dict[str, float]:
  """Returns the scores that published tables show.

  Args:
    values: of a run.
    retrained: of a retrained model; None leaves out what needs one.
    original: of the model before unlearning.
    classes: of the task.
    removes_classes: whether whole classes are forgotten.
  """
  forget, test = values['accuracy.forget'], values['accuracy.test']
  test_original = original['accuracy.test']
  found = {
    'aus': gaps.adaptive_unlearning_score(
      forget, test, test_original, removes_classes=removes_classes
    ),
    'nomus': gaps.nomus(test, values['mia.loss_logistic']),
    'mu_bench': gaps.mu_bench_score(
      forget, test, test_original, classes=classes
    ),
  }
  if retrained is not None and 'cost.run_s' in values:
    models = [
      composite.Measured(
        of['macro_f1.test'], of['mia.loss_logistic'], of.get('cost.run_s', 0.0)
      )
      for of in (values, retrained, original)
    ]
    found['gum'] = composite.gum(*models)
    found['cgum'] = composite.cgum(*models, classes=classes)
  return found


def _mean(values):
  return float(values.mean()) if len(values) else float('nan')
