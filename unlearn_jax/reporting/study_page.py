"""The results of studies as one HTML page that needs no other file."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import jinja2

from unlearn_jax.evaluation.claims import Claim
from unlearn_jax.evaluation.results_block import Block
from unlearn_jax.reporting import results
from unlearn_jax.reporting import study_plots
from unlearn_jax.reporting.page import Figure
from unlearn_jax.reporting.plots import forgetting_against_utility
from unlearn_jax.reporting.tables import Cell
from unlearn_jax.reporting.tables import Table


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
  """

  title: str
  facts: Sequence[str]
  claims: Sequence[Claim]
  requests: Sequence[str]
  table: Table
  table_text: str
  figures: Sequence[Figure]


def make_page(
  facts: Sequence[str],
  blocks: Sequence[Block],
  populations: Mapping[str, Block],
  claims: Sequence[Claim],
  searches: Sequence[Mapping[str, Any]],
) -> StudyPage:
  """Returns the page of some studies.

  Args:
    facts: sentences.
    blocks: results, one a request.
    populations: of titles of blocks, cards that have U-LiRA.
    claims: as judged.
    searches: records of them.
  """
  return StudyPage(
    title='Speech unlearning: results',
    facts=facts,
    claims=claims,
    requests=[block.title for block in blocks],
    table=_joined(blocks, populations),
    table_text=_plain(results.HOW_TO_READ),
    figures=_figures(blocks, searches),
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


def render(page: StudyPage) -> str:
  """Returns the HTML of a page; all text is escaped."""
  source = pathlib.Path(__file__).with_name('study.html').read_text('utf-8')
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
  )
  return environment.from_string(source).render(page=page)
