"""The comparison of methods as a table: for the terminal, Markdown and HTML."""

from collections.abc import Sequence
import dataclasses
import math

from unlearn_jax.evaluation import ranking
from unlearn_jax.evaluation.metric_card import MetricCard


@dataclasses.dataclass(frozen=True)
class Cell:
  """One entry of a table.

  Attributes:
    text: what it says.
    detail: more, for those who ask.
    verdict: of the card it shows; '' where there is none.
  """

  text: str
  detail: str = ''
  verdict: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of cells under a header; the first column names the method."""

  header: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]

  def to_text(self) -> str:
    """Returns the table for a terminal, numbers flush right."""
    lines = [self.header, *([cell.text for cell in row] for row in self.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = '  '.join('-' * width for width in widths)
    padded = []
    for line in lines:
      cells = zip(line[1:], widths[1:], strict=True)
      rest = [text.rjust(width) for text, width in cells]
      padded.append('  '.join([line[0].ljust(widths[0]), *rest]))
    return '\n'.join([padded[0], rule, *padded[1:]])

  def to_markdown(self) -> str:
    """Returns the table in Markdown."""
    lines = [self.header, ['---', *(['---:'] * (len(self.header) - 1))]]
    lines += [[cell.text for cell in row] for row in self.rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


# Headings, and how each number is written.
_COLUMNS = {
  'accuracy.forget': ('forget %', 'share'),
  'accuracy.retain': ('retain %', 'share'),
  'accuracy.validation': ('validation %', 'share'),
  'accuracy.test': ('test %', 'share'),
  'accuracy.test_forgotten': ('test forgotten %', 'share'),
  'macro_f1.test': ('test F1 %', 'share'),
  'mia.paper_loss': ('attack %', 'share'),
  'leakage.eer.forgotten': ('EER %', 'share'),
  'leakage.probe.auc': ('probe AUC %', 'share'),
  'leakage.enrolment.5': ('enrolled %', 'share'),
  'average_gap': ('avg gap', 'points'),
  'cost.run_s': ('run s', 'seconds'),
  'cost.compile_s': ('compile s', 'seconds'),
  'cost.rte': ('times faster', 'ratio'),
}


def comparison(cards: Sequence[MetricCard], more: Sequence[str] = ()) -> Table:
  """Sets the methods side by side, in the order of the cards.

  Shares are in percent with half the width of their 95 percent interval, gaps
  in percentage points. The verdict is that of forget accuracy, or damaged. The
  rank is by average gap; methods that no paired comparison separates share
  theirs.

  Args:
    cards: of any number of methods. A metric that no method has, or that is
      nowhere defined, gets no column.
    more: metrics that get a column too, as they are.
  """
  by_method: dict[str, dict[str, MetricCard]] = {}
  for card in cards:
    by_method.setdefault(card.provenance['method'], {})[card.name] = card
  names = [
    name
    for name in dict.fromkeys([*_COLUMNS, *more])
    if any(
      name in cards and not math.isnan(cards[name].value)
      for cards in by_method.values()
    )
  ]
  has_verdicts = any(card.verdict != 'no reference' for card in cards)
  header = ['method', *(_COLUMNS.get(n, (n,))[0] for n in names)]
  rows = []
  for method, own in by_method.items():
    row = [Cell(method), *(_cell(own.get(name)) for name in names)]
    if has_verdicts:
      row.append(_verdict(own['accuracy.forget']))
    rows.append(tuple(row))
  if has_verdicts:
    header.append('forgetting')
  ranks = ranking.rank(cards)
  if len(ranks) > 1 and any(card.n_seeds > 1 for card in cards):
    header.append('rank')
    rows = [(*row, _rank(ranks.get(row[0].text), len(ranks))) for row in rows]
  return Table(tuple(header), tuple(rows))


def _cell(card: MetricCard | None) -> Cell:
  if card is None or math.isnan(card.value):
    return Cell('')
  kind = _COLUMNS.get(card.name, ('', 'number'))[1]
  half = (card.ci_high - card.ci_low) / 2
  if kind == 'seconds':
    return Cell(f'{card.value:.1f}')
  if kind == 'ratio':
    return Cell(f'{card.value:.1f}')
  if kind == 'number':
    text = f'{card.value:.4g}'
    return Cell(text if math.isnan(half) else f'{text} ± {half:.2g}')
  text = f'{100 * card.value:.1f}'
  if not math.isnan(half):
    text += f' ± {100 * half:.1f}'
  detail = ''
  if card.ideal_kind != 'none':
    detail = (
      f'ideal {100 * card.ideal:.1f} ({card.ideal_kind}), '
      f'gap {100 * card.gap:+.1f} points'
    )
    if not math.isnan(card.noise_floor):
      detail += f', noise floor {100 * card.noise_floor:.1f}'
  return Cell(text, detail, card.verdict)


def _rank(found: ranking.Rank | None, count: int) -> Cell:
  if found is None:
    return Cell('')
  if found == (1, count):
    return Cell('not separated')
  same = found.best == found.worst
  return Cell(str(found.best) if same else f'{found.best} to {found.worst}')


def _verdict(card: MetricCard) -> Cell:
  text = 'collapsed' if card.collapsed else card.verdict
  return Cell(text, '', card.verdict)


def every_metric(cards: Sequence[MetricCard]) -> Table:
  """Sets all metrics one below the other, a column a model.

  The first columns are the ideal, which is retraining's value unless the metric
  has one of its own, and the noise floor; a word beside a value is its verdict,
  unless it matches.

  Args:
    cards: of any number of methods, for instance of an audit.
  """
  by_name: dict[str, dict[str, MetricCard]] = {}
  for card in cards:
    by_name.setdefault(card.name, {})[card.provenance['method']] = card
  methods = dict.fromkeys(card.provenance['method'] for card in cards)
  rows = []
  for name, own in by_name.items():
    if all(math.isnan(card.value) for card in own.values()):
      continue
    some = next(iter(own.values()))
    ideal = [Cell(_number(x)) for x in (some.ideal, some.noise_floor)]
    rest = [_judged(own.get(method)) for method in methods]
    rows.append((Cell(name), *ideal, *rest))
  return Table(('metric', 'ideal', 'noise', *methods), tuple(rows))


def populations(cards: Sequence[MetricCard]) -> Table:
  """Sets the metrics of populations one below the other, a row a method.

  Each with its 95 percent interval, and its ideal with that of the null
  distribution.
  """
  order = list(dict.fromkeys(card.name for card in cards))
  rows = [
    (
      Cell(card.name),
      Cell(card.provenance['method']),
      Cell(_interval(card.value, card.ci_low, card.ci_high)),
      Cell(_interval(card.ideal, card.ideal_ci_low, card.ideal_ci_high)),
      Cell(
        '' if card.verdict == 'no reference' else card.verdict, '', card.verdict
      ),
    )
    for card in sorted(cards, key=lambda card: order.index(card.name))
    if not math.isnan(card.value)
  ]
  return Table(('metric', 'method', 'value', 'ideal', 'verdict'), tuple(rows))


def _interval(value, low, high) -> str:
  text = _number(value)
  return (
    text if math.isnan(low) else f'{text} ({_number(low)}, {_number(high)})'
  )


def _judged(card: MetricCard | None) -> Cell:
  if card is None:
    return Cell('')
  text = _number(card.value)
  if card.verdict not in ('matches', 'no reference'):
    text = f'{card.verdict} {text}'
  return Cell(text, '', card.verdict)


def _number(value: float) -> str:
  return '' if math.isnan(value) else f'{value:.4g}'
