"""The report of an unlearning job: what stands on its page."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np
import scipy.special

from experiments import jobs
from experiments.cells import Cell
from unlearn_jax.evaluation.measure import forget_losses
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.reporting import attack_plots
from unlearn_jax.reporting import page as pages
from unlearn_jax.reporting import plots
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables

_SETS = ('forget', 'retain')
_MOST_CHANGED, _OTHERS = 2, 2
_TABLE_TEXT = (
  'The ideal of every column is the value of retrain, a model that never saw '
  'the forgotten recordings; its runs differ among themselves by the noise '
  'floor. Attack: share of the forget set that a loss-based attack takes for '
  'recordings that were never seen. Average gap: mean distance to retraining '
  'in forget, retain and test accuracy and in the AUC of an attack by loss '
  'against matched non-members, in points. EER, '
  'probe and enrolled: how well the embedding still verifies, tells apart and '
  'recognises (from five clips) a forgotten speaker. Ranks are '
  'by average gap: methods that a paired comparison over seeds does not tell '
  'apart share theirs. Point at a number for its ideal, gap and noise floor.'
)


def write(
  job: jobs.Job,
  cells: Sequence[Cell],
  outcomes: Sequence[Outcome],
  cards: Sequence[MetricCard],
  title: str,
  failures: Sequence[str],
  embeddings: str = '',
) -> pathlib.Path:
  """Writes `report/index.html`, the table in Markdown and the embeddings.

  Args:
    job: of the outcomes.
    cells: of all seeds.
    outcomes: of all runs.
    cards: of all methods.
    title: of the page.
    failures: runs that did not end, one sentence each.
    embeddings: a picture of them, from `inner.picture`; '' if there is none.

  Returns:
    the page.
  """
  folder = job.workdir / 'report'
  folder.mkdir(exist_ok=True)
  table = tables.comparison(cards)
  recordings = {
    name: _recordings(job, cells[0], outcomes, name) for name in _SETS
  }
  page = pages.Page(
    title=title,
    facts=_facts(job, cells),
    warnings=[*_warnings(cards), *failures],
    table=table,
    table_title='Methods beside the original and the retrained model',
    table_text=_TABLE_TEXT,
    figures=[*_figures(cells[0], outcomes, cards), *_voices(embeddings)],
    recordings_text='Of each set, those on which retraining changes the model '
    'most, and others for comparison.',
    recordings=[
      ('Forgotten', recordings['forget']),
      ('Retained', recordings['retain']),
    ],
  )
  records.write_text(folder / 'table.md', f'{table.to_markdown()}\n')
  if embeddings:
    records.write_text(folder / 'voices.svg', embeddings)
  records.write_text(folder / 'index.html', pages.render(page))
  return folder / 'index.html'


def _facts(job, cells):
  task, rows = job.task, cells[0].rows
  sizes = ', '.join(f'{name} {len(rows[name])}' for name in rows)
  corpus = task.corpus
  return [
    ('request', str(job.settings['forget'])),
    (
      'corpus',
      f'{corpus.name}: {len(corpus)} recordings, {len(corpus.keywords)} '
      f'keywords, {len(corpus.speakers)} speakers',
    ),
    ('split', f'{task.training.split}; recordings of seed 0: {sizes}'),
    ('network', f'{task.training.model}, head {task.training.head}'),
    ('seeds', str(len(cells))),
    ('forget sets', ', '.join(cell.subsets.forget_hash for cell in cells)),
    ('settings', job.workdir.joinpath('flags.txt').read_text().strip()),
  ]


def _warnings(cards):
  texts = []
  collapsed = {c.provenance['method'] for c in cards if c.collapsed}
  if collapsed:
    texts.append(
      f'Collapsed, so that low forget accuracy means nothing: '
      f'{", ".join(sorted(collapsed))}.'
    )
  if any(card.n_seeds == 1 for card in cards):
    texts.append('One seed: intervals are over recordings, not over models.')
  retrain = [c for c in cards if c.provenance['method'] == RETRAIN]
  if any(np.isnan(c.noise_floor) for c in retrain if c.name == 'average_gap'):
    texts.append('One retrained model a seed: the noise floor is not known.')
  return texts


def _figures(cell, outcomes, cards) -> list[pages.Figure]:
  """Returns the pictures; attacks are those on the models of one seed."""
  own = [o for o in outcomes if o.seed == cell.seed and not o.replicate]
  losses = {o.method: forget_losses(o, cell.subsets) for o in own}
  return [
    pages.Figure(
      'Forgetting against utility',
      'The green cross is retraining, the band around it the noise floor, bars '
      'are 95 % intervals over seeds. Axes are linear within one point and '
      'logarithmic beyond.',
      plots.forgetting_against_utility(cards),
    ),
    pages.Figure(
      'Attack by loss',
      f'Who was in the training set of the original model? Forget set against '
      f'test recordings that match in keyword and speaker, seed {cell.seed}. '
      'Chance is dotted; the ideal is the green line of retraining.',
      attack_plots.roc_curves({m: (-a, -b) for m, (a, b) in losses.items()}),
    ),
    pages.Figure(
      'Losses of the forget set',
      'Over recordings: an outline to the left of retraining is remembered, '
      'one to the right stands out as forgotten.',
      attack_plots.score_histograms(
        {m: np.log10(a + 1e-6) for m, (a, _) in losses.items()},
        'cross-entropy of a recording, nats, power of ten',
      ),
    ),
    pages.Figure(
      'Layers',
      'Linear CKA of the outputs of each block with those of retrained models. '
      'Dashed: retrained models among themselves. A model that agrees with the '
      'original in all but the last layer has changed its answers alone.',
      attack_plots.layer_bars(cards),
    ),
    pages.Figure(
      'Learning curves',
      'Accuracy after each epoch; dashed lines are where retraining ended.',
      _curves(outcomes, cards),
    ),
  ]


def _voices(svg) -> list[pages.Figure]:
  if not svg:
    return []
  return [
    pages.Figure(
      'Voices',
      'Embeddings of the forgotten speakers among those of retained ones, in '
      'the model before unlearning, in retrained ones and in the methods '
      'nearest to it. A voice that lies apart is recognised, whatever the '
      'last layer says.',
      svg,
    )
  ]


def _curves(outcomes, cards):
  by_method: dict[str, list] = {}
  for outcome in outcomes:
    if outcome.curves and not outcome.replicate:
      by_method.setdefault(outcome.method, []).append(outcome.curves)
  retrained = {
    f'{card.name.removeprefix("accuracy.")}_accuracy': card.value
    for card in cards
    if card.provenance['method'] == RETRAIN
    and card.name in ('accuracy.forget', 'accuracy.validation')
  }
  if not by_method:
    return ''
  return plots.learning_curves(by_method, retrained)


def _recordings(job, cell, outcomes, name) -> list[pages.Recording]:
  """Chooses recordings of a set: most changed by retraining, and others."""
  models = {
    outcome.method: scipy.special.softmax(outcome.logits[name], -1)
    for outcome in outcomes
    if outcome.seed == cell.seed and not outcome.replicate
  }
  labels, rows = cell.subsets.labels[name], cell.rows[name]
  silent = job.task.corpus.features is not None
  if silent or not len(rows) or RETRAIN not in models:
    return []
  everyone = np.arange(len(rows))
  change = models[ORIGINAL] - models[RETRAIN]
  order = np.argsort(-np.abs(change[everyone, labels]), kind='stable')
  rest = order[_MOST_CHANGED:]
  others = rest[:: max(1, -(-len(rest) // _OTHERS))][:_OTHERS]
  return [
    recording(job, int(rows[i]), {m: p[i] for m, p in models.items()})
    for i in [*order[:_MOST_CHANGED], *others]
  ]


def recording(
  job: jobs.Job, row: int, models: Mapping[str, np.ndarray]
) -> pages.Recording:
  """Returns a recording with what models say of it.

  Args:
    job: of the corpus.
    row: of the corpus.
    models: probabilities [classes], by name.
  """
  corpus, task = job.task.corpus, job.task
  truth = int(task.label[row])
  return pages.Recording(
    utterance_id=str(corpus.utterance_id[row]),
    keyword=corpus.keywords[corpus.keyword[row]],
    speaker=corpus.speakers[corpus.speaker[row]],
    audio=corpus.read_utterances(np.array([row]))[0],
    sample_rate_hz=corpus.sample_rate_hz,
    features=task.picture(row),
    hop_ms=task.features.hop_ms,
    predictions=tuple(
      pages.Prediction(
        model=model,
        answer=task.class_names[int(p.argmax())],
        probability=float(p.max()),
        is_right=int(p.argmax()) == truth,
      )
      for model, p in models.items()
    ),
  )
