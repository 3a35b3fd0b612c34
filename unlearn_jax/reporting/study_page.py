"""The results of studies as one HTML page that needs no other file.

Without sound it stays below 3 MB: 2.6 MB for 16 requests, 20 methods, 40
searches and 6 populations. Each population adds the sound of a dozen
recordings, half a megabyte where they last a second.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
import re
from typing import Any

import jinja2

from unlearn_jax.evaluation.claims import Claim
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.results_block import Block
from unlearn_jax.reporting import attack_plots
from unlearn_jax.reporting import results
from unlearn_jax.reporting import study_plots
from unlearn_jax.reporting.attack_files import AttackFiles
from unlearn_jax.reporting.attack_files import ExposedGroup
from unlearn_jax.reporting.page import Figure
from unlearn_jax.reporting.plots import forgetting_against_utility
from unlearn_jax.reporting.tables import Cell
from unlearn_jax.reporting.tables import Table

_ULIRA, _CHANCE = 'ulira.accuracy', 0.5
_COORDINATES = re.compile(r'\b(?:d|x|y)="[^"]*"')
_INDENT = re.compile(r'\s*\n\s*')
_LONG_NUMBER = re.compile(r'-?\d+\.\d{3,}')
_RECORDINGS_TEXT = (
  'Percent: how often an attacker who knows both worlds (U-LiRA) is right '
  'about whether a model was trained on the recording, over models; 50 is '
  'chance, and the column of retrain, models that never heard it, shows how '
  'far chance strays. Recordings were chosen by these numbers, so the largest '
  'are somewhat too large.'
)


@dataclasses.dataclass(frozen=True)
class ExposedTable:
  """Recordings of a population to listen to.

  Attributes:
    title: of the population.
    text: which methods they are of.
    methods: whose accuracy stands beside each recording, columns of the table.
    groups: rows, by what they were chosen by.
  """

  title: str
  text: str
  methods: Sequence[str]
  groups: Sequence[ExposedGroup]


@dataclasses.dataclass(frozen=True)
class StudyPage:
  """What the page shows, from top to bottom.

  Attributes:
    title: of the page.
    facts: sentences on corpora, networks and machines.
    claims: as judged.
    requests: titles that the table may be filtered by.
    table: request, method, numbers, verdict.
    table_text: how to read it.
    figures: pictures.
    recordings_text: how to read what stands beside recordings.
    recordings: one table a population that has sound.
  """

  title: str
  facts: Sequence[str]
  claims: Sequence[Claim]
  requests: Sequence[str]
  table: Table
  table_text: str
  figures: Sequence[Figure]
  recordings_text: str
  recordings: Sequence[ExposedTable]


def make_page(
  facts: Sequence[str],
  blocks: Sequence[Block],
  populations: Mapping[str, Block],
  claims: Sequence[Claim],
  searches: Sequence[Mapping[str, Any]],
  attacks: Mapping[str, AttackFiles] | None = None,
) -> StudyPage:
  """Returns the page of some studies.

  Args:
    facts: sentences.
    blocks: results, one a request.
    populations: of titles of blocks, cards that have U-LiRA.
    claims: as judged.
    searches: records of them.
    attacks: of titles of populations, what else is known of them; None is
      nothing.
  """
  attacks = attacks or {}
  tables = [
    _exposed_table(title, populations[title], attacks[title].groups)
    for title in attacks
  ]
  return StudyPage(
    title='Speech unlearning: results',
    facts=facts,
    claims=claims,
    requests=[block.title for block in blocks],
    table=_joined(blocks, populations),
    table_text=_plain(results.HOW_TO_READ),
    figures=[
      dataclasses.replace(figure, svg=_smaller(figure.svg))
      for figure in [*_figures(blocks, searches), *_roc_curves(attacks)]
    ],
    recordings_text=_RECORDINGS_TEXT,
    recordings=[table for table in tables if table.groups],
  )


def _plain(markdown):
  return ' '.join(markdown.replace('*', '').replace('`', '').split())


def _joined(blocks, populations):
  """Joins the tables of all blocks, which may have different columns."""
  tables = [results.results_table(b, populations.get(b.title)) for b in blocks]
  names = dict.fromkeys(name for t in tables for name in t.header[1:-1])
  rows = []
  for block, table in zip(blocks, tables, strict=True):
    for row in table.rows:
      own = dict(zip(table.header, row, strict=True))
      cells = [own.get(name, Cell('')) for name in names]
      rows.append((Cell(block.title), own['method'], *cells, own['verdict']))
  return Table(('request', 'method', *names, 'verdict'), tuple(rows))


def _figures(blocks, searches) -> list[Figure]:
  found = []
  for task in dict.fromkeys(block.task for block in blocks):
    found.append(
      Figure(
        f'More forgotten, {task}',
        'Average gap to retraining over the share that is forgotten; the thick '
        'line is that between two retrained models.',
        study_plots.ratio_curves([b for b in blocks if b.task == task]),
      )
    )
  for block in blocks:
    cards = [card for own in block.cards.values() for card in own.values()]
    found.append(
      Figure(
        f'Forgetting against utility, {block.title}',
        'The green cross is retraining, the band around it the noise floor, '
        'bars are 95 % intervals over seeds.',
        forgetting_against_utility(cards),
      )
    )
    found.append(
      Figure(
        f'Cost, {block.title}',
        'Average gap over the time of a run; the line is the gap between two '
        'retrained models.',
        study_plots.cost_against_gap(block),
      )
    )
  if searches:
    found.append(
      Figure(
        'How settings matter',
        'Each point is a setting that the search tried, its gap on validation '
        'data; the ring was chosen, the cross is the preset, the green line '
        'the gap between two retrained models.',
        study_plots.sensitivity(searches),
      )
    )
  return found


def _roc_curves(attacks: Mapping[str, AttackFiles]) -> list[Figure]:
  return [
    Figure(
      f'U-LiRA, {title}',
      'How many recordings an attacker rightly says were unlearned, over how '
      'many it wrongly says so, in models of a population. Chance is dotted; '
      'green is the control of models that never heard them.',
      attack_plots.roc_curves(files.scores),
    )
    for title, files in attacks.items()
    if files.scores
  ]


def _exposed_table(
  title: str, population: Block, groups: Sequence[ExposedGroup]
) -> ExposedTable:
  """Keeps the groups of the original model and of the best method alone.

  Those of all methods would be many times as large.
  """
  best, text = _best_method(population, {group.method for group in groups})
  shown = [m for m in (ORIGINAL, best) if m is not None]
  kept = [group for group in groups if group.method in shown]
  known = {m for g in kept for r in g.recordings for m in r.accuracy}
  columns = [m for m in (*shown, RETRAIN) if m in known]
  return ExposedTable(title, text, columns, kept)


def _best_method(population: Block, having: set[str]) -> tuple[str | None, str]:
  """Returns the method whose U-LiRA is closest to chance, and says which.

  A damaged model is as hard to attack as one that has forgotten, so a damaged
  method is taken only where all are.
  """
  distance = {
    method: abs(population.cards[method][_ULIRA].value - _CHANCE)
    for method in population.methods()
    if method in having and _ULIRA in population.cards[method]
  }
  known = {m: d for m, d in distance.items() if not math.isnan(d)}
  sound = {m: d for m, d in known.items() if not _is_damaged(population, m)}
  if not known:
    return None, 'Of models that unlearned nothing.'
  candidates = sound or known
  best = min(candidates, key=candidates.__getitem__)
  which = 'the methods' if not sound else 'the undamaged methods'
  text = (
    f'Of models that unlearned nothing, and of {best}, whose U-LiRA is closest '
    f'to chance among {which}.'
  )
  return best, text if sound else f'{text} All are damaged.'


def _is_damaged(population, method):
  cards = population.cards[method].values()
  return any(card.collapsed or card.verdict == 'damaged' for card in cards)


def _smaller(svg: str) -> str:
  """Rounds coordinates to 0.01 points, drops indents: a fifth of the size."""

  def shorten(attribute):
    return _LONG_NUMBER.sub(lambda n: f'{float(n[0]):.2f}', attribute[0])

  return _INDENT.sub('\n', _COORDINATES.sub(shorten, svg))


def render(page: StudyPage) -> str:
  """Returns the HTML of a page; all text is escaped."""
  source = pathlib.Path(__file__).with_name('study.html').read_text('utf-8')
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
  )
  return environment.from_string(source).render(page=page)
