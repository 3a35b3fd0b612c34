"""The page and the tables of a study."""

import html.parser
import json
import shutil
import subprocess

import pytest
import studies

from unlearn_jax.evaluation.claims import judge_claims
from unlearn_jax.reporting import results
from unlearn_jax.reporting import study_page
from unlearn_jax.reporting import study_plots

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))),
  None,
)
SEARCH = {
  'method': 'npo',
  'forget': 'sample:5%',
  'chosen': 1,
  'preset': 0,
  'retrain_gaps': [0.01],
  'cost': {'run_s': 60.0, 'compile_s': 30.0},
  'trials': [
    {
      'gap': gap,
      'preset': {
        'epochs': 2,
        'learning_rate': rate,
        'algorithm': algorithm,
        'schedule': 'constant',
        'options': {'beta': 0.5},
      },
    }
    for gap, rate, algorithm in ((0.3, 1e-4, 'adamw'), (0.1, 1e-3, 'sgd'))
  ],
}


@pytest.fixture(scope='module')
def blocks():
  ulira = studies.card('ulira.accuracy', [0.6] * 5)
  cost = studies.card('cost.rte', [20.0] * 5)
  npo = studies.method(gap=0.02) | {'ulira.accuracy': ulira, 'cost.rte': cost}
  methods = {
    'npo': npo,
    'scrub': studies.method(gap=0.05, damaged=True),
    '<ssd>': studies.method(),
  }
  return [
    studies.block(**methods),
    studies.block(request='sample:10%', **methods),
    studies.block(request='keyword:up', kind='keyword', **methods),
  ]


@pytest.fixture(scope='module')
def page(blocks):
  populations = {blocks[0].title: blocks[0]}
  return study_page.render(
    study_page.make_page(
      ['a <b> fact'], blocks, populations, judge_claims(blocks), [SEARCH]
    )
  )


class Parser(html.parser.HTMLParser):
  """Counts what it opens and closes, and keeps attributes."""

  VOID = {'meta', 'link', 'input', 'br', 'img', 'path', 'use'}

  def __init__(self):
    super().__init__()
    self.open, self.seen = [], []

  def handle_starttag(self, tag, attrs):
    self.seen.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.seen.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag, tag


def test_page_is_whole_and_needs_no_other_file(page):
  parser = Parser()
  parser.feed(page)
  assert not parser.open
  assert len(page) < 3e6
  for tag, attrs in parser.seen:
    address = attrs.get('src') or attrs.get('href') or '#'
    assert address.startswith(('#', 'data:')), (tag, attrs)
  tags = [tag for tag, _ in parser.seen]
  assert tags.count('caption') == 1
  scopes = [attrs.get('scope') for tag, attrs in parser.seen if tag == 'th']
  assert scopes.count('row') == 15 and None not in scopes
  assert '&lt;ssd&gt;' in page and 'a &lt;b&gt; fact' in page


def test_tables_have_the_papers_columns_and_what_they_lack(blocks):
  table = results.results_table(blocks[0], blocks[0])
  assert table.header == (
    'method',
    'Dt',
    'Df',
    'Dr',
    'gap',
    'U-LiRA',
    'cost',
    'verdict',
  )
  rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
  # The paper's method stands before the others.
  assert list(rows) == ['original', 'retrain', 'scrub', 'npo', '<ssd>']
  assert rows['npo'][-3:] == ['60.0 ± 0.0', '5.0', 'matches']
  assert rows['scrub'][-1] == 'damaged'
  assert rows['npo'][1] == '91.0 ± 2.0'


def test_table_of_searches():
  (row,) = results.searches_table([SEARCH]).rows
  assert [cell.text for cell in row] == [
    'npo',
    'sample:5%',
    '10.0',
    '30.0',
    '20.0',
    'epochs 2, learning_rate 0.001, algorithm sgd, schedule constant, beta 0.5',
    '1.5',
  ]


def test_pictures(blocks):
  svg = study_plots.ratio_curves(blocks)
  assert svg.startswith('<svg') and 'percent of the training set' in svg
  assert not study_plots.ratio_curves(blocks[1:])  # One ratio is no curve.
  assert 'npo' in study_plots.cost_against_gap(blocks[0])
  svg = study_plots.sensitivity([SEARCH])
  assert 'learning rate' in svg and 'SGD' in svg


PROBE = """
<script>
addEventListener('error', e => document.body.dataset.error = e.message);
</script>
%s
<script>
const shown = () => rows.filter(r => !r.hidden).length;
const set = (control, value) => {
  if (control.type === 'checkbox') control.checked = value;
  else control.value = value;
  control.dispatchEvent(new Event('input', {bubbles: true}));
  return shown();
};
const found = {start: shown()};
found.all = set(request, '');
found.method = set(method, 'NPO');
set(method, '');
found.undamaged = set(undamaged, true);
heads.find(h => h.textContent === 'gap').firstElementChild.click();
found.first = body.rows[0].cells[1].textContent;
found.sort = heads.map(h => h.getAttribute('aria-sort')).join('');
found.wide = document.documentElement.scrollWidth <= innerWidth;
document.body.dataset.found = JSON.stringify(found);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium here')
@pytest.mark.parametrize('width', [390, 1280])
def test_filters_work_in_a_browser(page, tmp_path, width):
  place = tmp_path / 'index.html'
  place.write_text(PROBE % page, encoding='utf-8')
  made = subprocess.run(
    [
      CHROMIUM,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      f'--user-data-dir={tmp_path / "profile"}',
      f'--window-size={width},900',
      '--dump-dom',
      place.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  parser = Parser()
  parser.feed(made.stdout)
  (body,) = [attrs for tag, attrs in parser.seen if tag == 'body']
  assert 'data-error' not in body
  assert json.loads(body['data-found']) == {
    'start': 5,
    'all': 15,
    'method': 3,
    'undamaged': 12,
    'first': 'original',  # Of the least gap, in the order of the table.
    'sort': 'ascending',
    'wide': True,
  }
