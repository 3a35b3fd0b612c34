"""The results of studies as Markdown: tables, claims, and how settings came."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.claims import Claim
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.results_block import Block
from unlearn_jax.methods import choice
from unlearn_jax.reporting import replication
from unlearn_jax.reporting.tables import Cell
from unlearn_jax.reporting.tables import Table

PAPERS = ('gradient_ascent', 'random_label', 'bad_teacher', 'scrub', 'salun')
# Headings of the paper's columns, then of ours; all shares in percent.
_COLUMNS = {
  'accuracy.test': 'Dt',
  'accuracy.forget': 'Df',
  'accuracy.retain': 'Dr',
  'mia.paper_loss': 'MIA',
  'average_gap': 'gap',
  'leakage.eer.forgotten': 'EER',
  'leakage.enrolment.5': '5 clips',
}
_ULIRA = 'ulira.accuracy'
_CAP = 0.1  # Of the examples that retraining looks at.
_OPTIONS = ('epochs', 'learning_rate', 'algorithm', 'schedule')


def methods_in_order(block: Block) -> list[str]:
  """Returns original, retrain, the paper's five methods, and the others."""
  first = [ORIGINAL, RETRAIN, *PAPERS]
  rest = [m for m in block.cards if m not in first]
  return [m for m in first if m in block.cards] + rest


def results_table(block: Block, population: Block | None = None) -> Table:
  """Returns the paper's table of a request, with what it lacks.

  Args:
    block: results of the request.
    population: cards of a population that forgot likewise, for U-LiRA.
  """
  metrics = [
    name
    for name in _COLUMNS
    if any(_is_known(cards.get(name)) for cards in block.cards.values())
  ]
  header = ['method', *(_COLUMNS[name] for name in metrics)]
  if population is not None:
    header.append('U-LiRA')
  examples = {method: _examples(block, method) for method in block.cards}
  has_examples = any(share is not None for share in examples.values())
  header += [*['examples'] * has_examples, 'cost', 'verdict']
  rows = []
  for method in methods_in_order(block):
    cards = block.cards[method]
    row = [Cell(method), *(_share(cards.get(name)) for name in metrics)]
    if population is not None:
      row.append(_share(population.cards.get(method, {}).get(_ULIRA)))
    if has_examples:
      share = examples[method]
      row.append(Cell('' if share is None else f'{100 * share:.1f}'))
    row += [_cost(cards.get('cost.rte')), Cell(_verdict(block, method))]
    rows.append(tuple(row))
  return Table(tuple(header), tuple(rows))


def ablation_table(block: Block) -> Table:
  """Returns what becomes of methods with other settings.

  The change of the gap is paired by seed, with half its 95 % interval.

  Args:
    block: with variants.
  """
  every = {**block.cards, **block.variants}
  metrics = [
    name
    for name in _COLUMNS
    if any(_is_known(every[m].get(name)) for m in block.variants)
  ]
  header = 'settings', *(_COLUMNS[name] for name in metrics), 'change of gap'
  rows = []
  for method in [RETRAIN, *dict.fromkeys(map(choice.base, block.variants))]:
    own = [m for m in block.variants if choice.base(m) == method]
    for name in [method, *own]:
      cards = every[name]
      change = _change(cards, every[method]) if name in own else Cell('')
      values = (_share(cards.get(metric)) for metric in metrics)
      rows.append((Cell(name), *values, change))
  return Table(header, tuple(rows))


def _change(cards, others):
  """Returns by how much the gap is larger, over seeds that have both."""
  own, its = (np.array(c['average_gap'].values) for c in (cards, others))
  if len(own) != len(its):
    return Cell('')
  found = statistics.t_interval(own - its)
  half = 100 * (found.high - found.low) / 2
  text = f'{100 * found.mean:+.1f}'
  return Cell(text if math.isnan(half) else f'{text} ± {half:.1f}')


def _is_known(card: MetricCard | None) -> bool:
  return card is not None and not math.isnan(card.value)


def _share(card: MetricCard | None) -> Cell:
  if card is None or math.isnan(card.value):
    return Cell('')
  half = 100 * (card.ci_high - card.ci_low) / 2
  text = f'{100 * card.value:.1f}'
  return Cell(text if math.isnan(half) else f'{text} ± {half:.1f}')


def _examples(block: Block, method: str) -> float | None:
  """Returns the examples of a run over those of retraining, or None."""
  found = [block.cards[m].get('cost.examples') for m in (method, RETRAIN)]
  values = [card.value for card in found if card is not None]
  if method == ORIGINAL or len(values) < 2 or any(map(math.isnan, values)):
    return None
  return values[0] / values[1]


def _cost(card: MetricCard | None) -> Cell:
  """The run's time over that of retraining, in percent."""
  if card is None or math.isnan(card.value):
    return Cell('')
  return Cell(f'{100 / card.value:.1f}')


def _verdict(block, method):
  if block.has_collapsed(method):
    return 'collapsed'
  if not block.is_undamaged(method):
    return 'damaged'
  return block.cards[method]['accuracy.forget'].verdict


def searches_table(searches: Sequence[Mapping[str, Any]]) -> Table:
  """Returns what each search chose, against its preset and its spread.

  Args:
    searches: records that `experiments.benchmark` wrote.
  """
  header = (
    'method',
    'searched on',
    'gap',
    'least gap',
    'gap within 10 %',
    'gap of the preset',
    'gap of retraining',
    'median gap',
    'setting',
    'minutes',
  )
  rows = []
  for record in searches:
    trials, chosen = record['trials'], record['trials'][record['chosen']]
    gaps = np.array([trial['gap'] for trial in trials], float)
    preset, own = chosen['preset'], record['preset']
    floor = record['retrain_gaps']
    most = _CAP * record['retrain_examples']
    cheap = [t['gap'] for t in trials if t['examples'] <= most]
    parts = [f'{name} {_number(preset[name])}' for name in _OPTIONS]
    options = [f'{k} {_number(v)}' for k, v in preset['options'].items()]
    texts = (
      record['method'],
      record['forget'],
      f'{100 * chosen["gap"]:.1f}',
      f'{100 * np.nanmin(gaps):.1f}',
      f'{100 * np.nanmin(cheap):.1f}' if cheap else '',
      f'{100 * gaps[own]:.1f}' if own is not None else '',
      f'{100 * np.mean(floor):.1f}' if floor else '',
      f'{100 * np.nanmedian(gaps):.1f}',
      ', '.join((parts if preset['epochs'] else []) + options),
      f'{sum(record["cost"].values()) / 60:.1f}',
    )
    rows.append(tuple(map(Cell, texts)))
  return Table(header, tuple(rows))


def _number(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def results_markdown(
  command: str,
  facts: Sequence[str],
  blocks: Sequence[Block],
  populations: Mapping[str, Block],
  claims: Sequence[Claim],
  searches: Sequence[Mapping[str, Any]],
  replications: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> str:
  """Returns the whole file.

  Args:
    command: that wrote it.
    facts: sentences on corpora, networks and machines.
    blocks: results, one a request.
    populations: of titles of blocks, cards that have U-LiRA.
    claims: as judged.
    searches: records of them.
    replications: of each run of `experiments.paper_table`, its records.
  """
  parts = [
    '# Results',
    f'Written by `{command}` from records; no number here is typed.',
    '\n'.join(f'* {fact}' for fact in facts),
    HOW_TO_READ,
    '## Claims of "Speech Unlearning"',
  ]
  for claim in claims:
    parts.append(
      f'**{claim.name}: {claim.verdict}.** {claim.text} Supported if '
      f'{claim.rule}.'
    )
    if claim.evidence:
      parts.append('\n'.join(f'* {text}' for text in claim.evidence))
  for block in blocks:
    parts.append(f'## {block.title}')
    table = results_table(block, populations.get(block.title))
    parts.append(table.to_markdown())
  ablated = [block for block in blocks if block.variants]
  if ablated:
    parts += ['## Ablation', _HOW_ABLATED]
  for block in ablated:
    parts += [f'### {block.title}', ablation_table(block).to_markdown()]
  if replications:
    parts.append('## The published recipe')
    parts += map(replication.to_markdown, replications)
  if searches:
    parts.append('## How settings were found')
    parts.append(_HOW_SEARCHED)
    parts.append(searches_table(searches).to_markdown())
  return '\n\n'.join(parts) + '\n'


HOW_TO_READ = """\
Dt, Df, Dr: accuracy on test, forget and retain set, percent, with half the
width of the 95 % interval over seeds. Where a class is removed, Dt is of the
others. MIA: percent of the forget set that the paper's attack by loss calls
unseen. Gap: mean distance to retraining over Dt, Df, Dr and the area under the
ROC curve of an attack by loss against matched non-members, in points. The ideal
of each is the row `retrain`, whose gap is that between two retrained models.
Examples: how many a run learns from, repeats counted, over those of retraining,
percent. Cost: time over that of retraining, percent, which other work on the
machine changes. Verdict: of forget accuracy against
retraining, or *damaged* where retain or test accuracy falls short by three
noise floors."""
_HOW_ABLATED = """\
The settings are those that the search found, but for what brackets say; batches
and draws of a seed are the same. Change of gap: against the first row of the
method, paired by seed, in points."""
_HOW_SEARCHED = """\
Every method tried as many settings, on a seed and a model that no result uses,
and was judged by the gap on validation data. The first setting is the preset of
the library. It stays where its gap is at most that between two retrained
models, below which a search sees chance alone; else the setting with the least
gap is chosen. Gap within 10 %: the least of the settings that look at no more
than a tenth of the examples that retraining looks at."""
