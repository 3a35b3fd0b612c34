"""What is known of each metric: its direction, its ideal, who it counts."""

import dataclasses

from unlearn_jax.evaluation.metric_card import Direction
from unlearn_jax.evaluation.metric_card import Forgotten
from unlearn_jax.evaluation.metric_card import IdealKind


@dataclasses.dataclass(frozen=True)
class Metric:
  """A row of the table.

  Attributes:
    direction: 'match' retraining, or 'higher' or 'lower' is better.
    examples: the set whose size is the number of examples; None if there is
      none.
    forgotten: the side of retraining on which "too forgotten" lies.
    ideal: where the ideal comes from.
    theory: the ideal, where it comes from theory.
    is_share: a share of the examples, with a binomial error.
    is_utility: its loss is damage.
    is_pairwise: it is of pairs of runs, for which two retrained models alone
      give an ideal and no noise floor.
    version: raised when the definition changes.
  """

  direction: Direction
  examples: str | None = None
  forgotten: Forgotten | None = None
  ideal: IdealKind = 'retrain'
  theory: float = 0.0
  is_share: bool = False
  is_utility: bool = False
  is_pairwise: bool = False
  version: int = 1


def _accuracies() -> dict[str, Metric]:
  forget = Metric('match', 'forget', forgotten='below')
  forgotten_test = Metric('match', 'test_forgotten', forgotten='below')
  rows = {'forget': forget, 'test_forgotten': forgotten_test}
  for name in ('retain', 'validation', 'test'):
    is_utility = name != 'validation'
    rows[name] = Metric('higher', name, is_utility=is_utility)
  shares = {
    f'accuracy.{name}': dataclasses.replace(row, is_share=True)
    for name, row in rows.items()
  }
  # Damage is judged on accuracies.
  others = {
    f'{metric}.{name}': dataclasses.replace(row, is_utility=False)
    for metric in ('balanced_accuracy', 'macro_f1')
    for name, row in rows.items()
  }
  return shares | others


def _leakages() -> dict[str, Metric]:
  """Rows of `speaker_leakage`, whose utterances are of several sets."""
  errors = Metric('match', forgotten='above')  # Fewer, if a voice is known.
  found = Metric('match', forgotten='below')
  rows = {
    f'{error}.{side}': row
    for error in ('eer', 'min_dcf')
    for side, row in (
      ('forgotten', errors),
      ('retained', Metric('lower')),
      ('trials', Metric('lower')),  # Of the user's own list.
    )
  }
  rows |= dict.fromkeys(('probe.accuracy', 'probe.auc'), found)
  # The labels are random, so it is the error of the probe and of no model.
  rows['probe.shuffled'] = Metric('match', ideal='theory', theory=0.5)
  rows |= dict.fromkeys(('enrolment.1', 'enrolment.5', 'enrolment.20'), found)
  rows['enrolment_retained.5'] = Metric('higher')
  # Of all speakers, most of whom are retained: no side is "too forgotten".
  rows['speaker_probe'] = Metric('match')
  return {f'leakage.{name}': row for name, row in rows.items()}


_FORGET_BELOW = Metric('match', 'forget', forgotten='below')
_FORGET_ABOVE = Metric('match', 'forget', forgotten='above')
_MATCHED_BELOW = Metric('match', 'matched', forgotten='below')
_FORGET_DISTANCE = Metric('lower', 'forget', is_pairwise=True)
_COST = Metric('lower', ideal='none')

METRICS: dict[str, Metric] = {
  **_accuracies(),
  'collapse.excess': Metric('lower', 'test'),
  'collapse.prediction_entropy': Metric('match', 'test'),
  'loss.forget': _FORGET_ABOVE,
  # Attacks on one model. The logistic one finds a high loss as well as a low
  # one, so it has no side.
  'mia.loss_threshold.auc': _MATCHED_BELOW,
  'mia.loss_threshold.auc_either_way': Metric('match', 'matched'),
  'mia.loss_threshold.accuracy': _MATCHED_BELOW,
  'mia.loss_threshold.tpr_at_1e2': _MATCHED_BELOW,
  'mia.loss_threshold.tpr_at_1e3': _MATCHED_BELOW,
  'mia.loss_logistic': Metric('match', 'matched'),
  'mia.svc_five': dataclasses.replace(_FORGET_ABOVE, is_share=True),
  'mia.entropy': dataclasses.replace(_FORGET_BELOW, is_share=True),
  'mia.paper_loss': dataclasses.replace(_FORGET_ABOVE, is_share=True),
  'zrf': _FORGET_ABOVE,
  # Distances to retrained models; the ideal is that between two of them.
  'distance.js': _FORGET_DISTANCE,
  'distance.activation': _FORGET_DISTANCE,
  'distance.loss_wasserstein': _FORGET_DISTANCE,
  'distance.weights': Metric('lower', is_pairwise=True),
  'average_gap': Metric('lower', ideal='theory', is_pairwise=True, version=2),
  'tow': Metric('higher', is_pairwise=True),
  # For comparison with published tables.
  'aus': Metric('match'),
  'nomus': Metric('match'),
  'mu_bench': Metric('match'),
  'gum': Metric('higher', ideal='none'),
  'cgum': Metric('higher', ideal='none'),
  # How soon a copy learns the forget set again.
  'relearn.steps': _FORGET_ABOVE,
  'relearn.loss_area': _FORGET_ABOVE,
  'relearn.anamnesis': dataclasses.replace(
    _FORGET_ABOVE, ideal='theory', theory=1.0
  ),
  # What embeddings still tell of a speaker.
  **_leakages(),
  'cost.run_s': _COST,
  'cost.compile_s': _COST,
  'cost.peak_bytes': _COST,
  'cost.optimizer_steps': _COST,
  'cost.examples': _COST,
  'cost.rte': Metric('higher', ideal='none'),
}
# Of each layer, on the forget and on the retain set; the layer comes last.
LAYER_METRICS: dict[str, Metric] = {
  'cka.retrain.forget': Metric('higher', 'forget', is_pairwise=True),
  'cka.retrain.retain': Metric('higher', 'retain', is_pairwise=True),
  'cka.original.forget': Metric('match', 'forget'),
  'cka.original.retain': Metric('match', 'retain'),
}


def metric(name: str) -> Metric:
  """Returns the row of a metric, also of one of a layer.

  Raises:
    ValueError: if there is none.
  """
  row = METRICS.get(name) or LAYER_METRICS.get('.'.join(name.split('.')[:3]))
  if row is None:
    raise ValueError(
      f'{name}: must be one of {", ".join([*METRICS, *LAYER_METRICS])}.'
    )
  return row
