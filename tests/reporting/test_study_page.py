"""The page and the tables of a study."""

import dataclasses
import html
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess

from matplotlib import image
import numpy as np
import pytest
import studies

from unlearn_jax.evaluation.claims import judge_claims
from unlearn_jax.evaluation.ulira import ulira
from unlearn_jax.evaluation.ulira import UliraResult
from unlearn_jax.reporting import attack_files
from unlearn_jax.reporting import page as pages
from unlearn_jax.reporting import results
from unlearn_jax.reporting import study_page
from unlearn_jax.reporting import study_plots
from unlearn_jax.types import InputError

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
  'retrain_examples': 1_000,
  'cost': {'run_s': 60.0, 'compile_s': 30.0},
  'trials': [
    {
      'gap': gap,
      'examples': examples,
      'preset': {
        'epochs': 2,
        'learning_rate': rate,
        'algorithm': algorithm,
        'schedule': 'constant',
        'options': {'beta': 0.5},
      },
    }
    for gap, rate, algorithm, examples in (
      (0.3, 1e-4, 'adamw', 100),
      (0.1, 1e-3, 'sgd', 101),
    )
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


def attack(strength) -> UliraResult:
  """Of eight models that saw each of 50 recordings and of eight that did not.

  Args:
    strength: how much surer those are that saw it, in standard deviations.
  """
  phi = np.random.default_rng(0).normal(size=(2, 8, 50))
  return ulira(phi[0] + strength, phi[1])


def group(method, heading='Most exposed'):
  """A group of two recordings of half a second."""
  tone = 8_000 * np.sin(np.arange(8_000) * 0.1)
  sound = pages.Recording(
    utterance_id='a/b',
    keyword='up',
    speaker='speaker <1>',
    audio=tone.astype(np.int16),
    sample_rate_hz=16_000,
    features=np.zeros((1, 1)),
    hop_ms=10.0,
    predictions=(),
  ).audio_address()
  accuracy = {'original': 0.97, 'npo': 0.625, 'scrub': 0.5, 'retrain': 0.5}
  recordings = [
    attack_files.ExposedRecording(f'id_{i}', 'up', 's <1>', accuracy, sound)
    for i in range(2)
  ]
  return attack_files.ExposedGroup(method, heading, tuple(recordings))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """What a population left, written and read."""
  folder = tmp_path_factory.mktemp('population')
  found = {'original': attack(2.0), 'retrain': attack(0.0), 'npo': attack(0.5)}
  groups = [group('original'), group('npo'), group('scrub')]
  attack_files.write_attacks(folder, found)
  attack_files.write_exposed(folder, groups)
  return attack_files.read(folder)


def make(blocks, **attacks):
  populations = {blocks[0].title: blocks[0]}
  claims = judge_claims(blocks)
  return study_page.make_page(
    ['a <b> fact'], blocks, populations, claims, [SEARCH], **attacks
  )


@pytest.fixture(scope='module')
def page(blocks, files):
  return study_page.render(make(blocks, attacks={blocks[0].title: files}))


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
  silent = re.sub('data:audio[^"]*', '', page)
  assert len(silent) < 3e6
  for tag, attrs in parser.seen:
    address = attrs.get('src') or attrs.get('href') or '#'
    assert address.startswith(('#', 'data:')), (tag, attrs)
  tags = [tag for tag, _ in parser.seen]
  assert tags.count('caption') == tags.count('table') == 2
  scopes = [attrs.get('scope') for tag, attrs in parser.seen if tag == 'th']
  assert scopes.count('row') == 15 + 4 and None not in scopes
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


def test_table_says_how_many_examples_a_run_looked_at():
  def with_examples(count):
    return studies.method() | {
      'cost.examples': studies.card('cost.examples', [count] * 5)
    }

  found = studies.block(npo=with_examples(25.0))
  cards = {**found.cards, 'retrain': with_examples(1_000.0)}
  table = results.results_table(dataclasses.replace(found, cards=cards))
  at = table.header.index('examples')
  assert {row[0].text: row[at].text for row in table.rows} == {
    'original': '',
    'retrain': '100.0',
    'npo': '2.5',
  }


def test_table_of_searches():
  (row,) = results.searches_table([SEARCH]).rows
  assert [cell.text for cell in row] == [
    'npo',
    'sample:5%',
    '10.0',
    '10.0',
    '30.0',  # A tenth of retraining's examples are 100.
    '30.0',
    '1.0',
    '20.0',
    'epochs 2, learning_rate 0.001, algorithm sgd, schedule constant, beta 0.5',
    '1.5',
  ]


def test_pictures(blocks):
  svg = study_plots.ratio_curves(blocks)
  assert svg.startswith('<svg') and 'percent of the training set' in svg
  assert not study_plots.ratio_curves(blocks[1:])  # One ratio is no curve.
  # A control repeats a ratio, and is no point of the curve.
  control = dataclasses.replace(blocks[0], condition='15 epochs')
  assert not study_plots.ratio_curves([blocks[0], control])
  assert 'npo' in study_plots.cost_against_gap(blocks[0])
  svg = study_plots.sensitivity([SEARCH])
  assert 'learning rate' in svg and 'SGD' in svg


def test_curves_and_recordings_of_a_population(page, blocks, files):
  assert f'<h2>U-LiRA, {blocks[0].title}</h2>' in page
  parser = Parser()
  parser.feed(page)
  sounds = [attrs for tag, attrs in parser.seen if tag == 'audio']
  # The undamaged method closest to chance; scrub is damaged.
  assert [sound['aria-label'].partition(';')[0] for sound in sounds] == [
    'up by s <1>, id_0',
    'up by s <1>, id_1',
  ] * 2
  assert {sound['aria-label'].partition('; ')[2] for sound in sounds} == {
    'the attacker is right in 97% for original, 62% for npo, 50% for retrain'
  }
  assert 'npo, whose U-LiRA is closest to chance among the undamaged' in page
  # Stored scores give the same curve.
  want = attack(0.5)
  for got, world in zip(
    files.scores['npo'], (want.unlearned, ~want.unlearned), strict=True
  ):
    np.testing.assert_allclose(got, want.scores[world], rtol=1e-3)


def test_a_damaged_method_is_played_where_all_are(blocks):
  files = attack_files.AttackFiles({}, (group('original'), group('scrub')))
  cards = {
    **blocks[0].cards['scrub'],
    'ulira.accuracy': studies.card('ulira.accuracy', [0.5] * 5),
  }
  block = dataclasses.replace(
    blocks[0], cards={**blocks[0].cards, 'scrub': cards}
  )
  title = block.title
  (table,) = make([block, *blocks[1:]], attacks={title: files}).recordings
  assert table.text.endswith('among the methods. All are damaged.')
  assert table.methods == ['original', 'scrub', 'retrain']
  # Without a method that unlearned, the original alone.
  files = attack_files.AttackFiles({}, (group('original'),))
  (table,) = make(blocks, attacks={title: files}).recordings
  assert table.methods == ['original', 'retrain']


def test_populations_without_files_or_sound(blocks, tmp_path):
  files = attack_files.read(tmp_path)
  assert not files.scores and not files.groups
  title = blocks[0].title
  without = study_page.render(make(blocks))
  assert study_page.render(make(blocks, attacks={title: files})) == without
  attack_files.write_attacks(tmp_path, {'original': attack(1.0)})
  attack_files.write_exposed(tmp_path, [])  # A corpus without sound.
  made = make(blocks, attacks={title: attack_files.read(tmp_path)})
  assert made.figures[-1].title == f'U-LiRA, {title}'
  assert '<audio' not in study_page.render(made)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 4] ^= 0xFF
  path.write_bytes(bytes(data))


def _shorten(path):
  arrays = dict(np.load(path))
  arrays['original.unlearned'] = arrays['original.unlearned'][1:]
  np.savez(path, **arrays)


def _replace(old, new):
  return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
  ('name', 'spoil', 'message'),
  [
    (attack_files.ATTACKS, _cut, 'is damaged'),
    (attack_files.ATTACKS, _flip, 'is damaged'),
    (attack_files.ATTACKS, _shorten, 'as many finite scores as truths'),
    (attack_files.EXPOSED, _cut, 'is damaged'),
    (attack_files.EXPOSED, lambda path: path.write_text('7'), 'is damaged'),
    (attack_files.EXPOSED, lambda path: path.write_text('[7]'), 'is damaged'),
    (attack_files.EXPOSED, _replace('"heading"', '"head"'), "'heading'"),
    (attack_files.EXPOSED, _replace('0.97', '1.97'), r'in \[0, 1\]'),
    (attack_files.EXPOSED, _replace('0.97', 'NaN'), r'in \[0, 1\]'),
    (attack_files.EXPOSED, _replace('base64,Ukl', 'base64,!'), 'not base64'),
    (attack_files.EXPOSED, _replace('base64,Ukl', 'base64,AAA'), 'RIFF'),
    (attack_files.EXPOSED, _replace('data:audio/wav', 'http://x'), 'id_0 must'),
    (attack_files.EXPOSED, lambda path: path.write_bytes(b'\xff'), 'utf-8'),
  ],
)
def test_a_damaged_file_is_said_in_one_line(tmp_path, name, spoil, message):
  attack_files.write_attacks(tmp_path, {'original': attack(1.0)})
  attack_files.write_exposed(tmp_path, [group('original')])
  attack_files.read(tmp_path)
  spoil(tmp_path / name)
  with pytest.raises(InputError, match=message) as info:
    attack_files.read(tmp_path)
  assert str(info.value).startswith(f'{tmp_path / name}: is damaged (')
  assert '\n' not in str(info.value)


PROBE = """
<script>
const errors = [];
addEventListener('error', e => errors.push(e.message || e.target.tagName),
  true);
console.error = console.warn = (...texts) => errors.push(texts.join(' '));
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
found.fits = document.documentElement.scrollWidth <= innerWidth;
found.width = frameElement.clientWidth;
// A page is loaded once the sounds that it began to load can be played.
for (const sound of sounds) { sound.preload = 'auto'; sound.load(); }
const body_of_all = parent.document.body;
addEventListener('load', () => {
  found.seconds = sounds.map(sound => sound.duration);
  found.playable = sounds.every(sound => sound.readyState >= 2);
  found.errors = errors;
  body_of_all.dataset.found = JSON.stringify(found);
  body_of_all.dataset.paint = JSON.stringify(
    performance.getEntriesByType('paint').map(e => [e.name, e.startTime]));
});
</script>
"""


def browse(place, *flags):
  return subprocess.run(
    [
      CHROMIUM,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--enable-logging=stderr',  # With what stands in the console.
      f'--user-data-dir={place.parent / "profile"}',
      '--window-size=1400,1000',
      *flags,
      place.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )


@pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium here')
@pytest.mark.parametrize('width', [390, 1280])
def test_page_works_in_a_browser(page, tmp_path, width):
  place = tmp_path / 'index.html'
  # In a frame, since no window is as narrow as a telephone.
  inner = html.escape(PROBE % page)
  place.write_text(
    f'<!doctype html><title></title><link rel="icon" href="data:,">'
    f'<iframe width="{width}" height="900" srcdoc="{inner}"></iframe>',
    encoding='utf-8',
  )
  made = browse(place, '--dump-dom')
  parser = Parser()
  parser.feed(made.stdout)
  (body,) = [attrs for tag, attrs in parser.seen if tag == 'body']
  print(f'Paint, ms: {body["data-paint"]}')  # Shown by pytest -s.
  assert 'CONSOLE' not in made.stderr
  assert json.loads(body['data-found']) == {
    'start': 5,
    'all': 15,
    'method': 3,
    'undamaged': 12,
    'first': 'original',  # Of the least gap, in the order of the table.
    'sort': 'ascending',
    'fits': True,
    'width': width,
    'seconds': [0.5] * 4,
    'playable': True,
    'errors': [],
  }
  shot = tmp_path / f'page_{width}.png'
  if folder := os.environ.get('ARTIFACTS'):  # To be looked at afterwards.
    shot = pathlib.Path(folder) / shot.name
    shot.parent.mkdir(parents=True, exist_ok=True)
  browse(place, f'--screenshot={shot.absolute()}')
  assert image.imread(shot).std() > 0.01  # It shows something.
