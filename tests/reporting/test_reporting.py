"""Records, tables, plots and the page."""

import base64
import io
import re

from absl.testing import absltest
import numpy as np
import pytest
import soundfile

from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.reporting import page as pages
from unlearn_jax.reporting import plots
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables
from unlearn_jax.types import InputError

NAN = float('nan')


def make_card(method, name, value, ideal=0.9, **changes):
  fields = {
    'name': name,
    'version': 1,
    'value': value,
    'ci_low': value - 0.02,
    'ci_high': value + 0.02,
    'ci_method': 't',
    'n_seeds': 3,
    'n_examples': 100.0,
    'values': (value, value, value),
    'ideal': ideal,
    'ideal_kind': 'retrain',
    'ideal_ci_low': ideal - 0.01,
    'ideal_ci_high': ideal + 0.01,
    'direction': 'match',
    'gap': value - ideal,
    'noise_floor': 0.005,
    'over_unlearned': False,
    'collapsed': False,
    'verdict': 'matches',
    'provenance': {'method': method, 'seeds': [0, 1, 2]},
    **changes,
  }
  return MetricCard(**fields)


def make_cards():
  cards = []
  for method, forget, test in (('retrain', 0.9, 0.9), ('scrub<b>', 0.5, 0.8)):
    collapsed = method != 'retrain'
    verdict = 'damaged' if collapsed else 'matches'
    more = {'collapsed': collapsed, 'verdict': verdict}
    cards += [
      make_card(method, 'accuracy.forget', forget, **more),
      make_card(method, 'accuracy.test', test, **more),
      make_card(
        method,
        'cost.run_s',
        12.34,
        ideal=NAN,
        ideal_kind='none',
        verdict='no reference',
      ),
      make_card(method, 'macro_f1.retain', 0.7),
    ]
  return cards


def test_records_survive_their_file(tmp_path):
  cards = make_cards()
  path = tmp_path / 'records.jsonl'
  records.write(path, cards)
  assert path.read_text().count('\n') == len(cards)
  assert repr(records.read(path)) == repr(cards)
  records.write(path, cards[:1])
  assert len(records.read(path)) == 1
  assert [p.name for p in tmp_path.iterdir()] == ['records.jsonl']


@pytest.mark.parametrize(
  'text', ['{"name": 1}\n', 'nonsense\n', '[1]\n', '{}\n']
)
def test_damaged_records_are_named(tmp_path, text):
  path = tmp_path / 'records.jsonl'
  records.write(path, make_cards()[:1])
  path.write_text(path.read_text() + text)
  with pytest.raises(InputError, match='records.jsonl: line 2 is no metric'):
    records.read(path)


def test_missing_records_are_named(tmp_path):
  with pytest.raises(InputError, match='none.jsonl: cannot be read'):
    records.read(tmp_path / 'none.jsonl')


def test_table_in_text():
  assert tables.comparison(make_cards()).to_text().splitlines() == [
    'method      forget %      test %  run s  forgetting',
    '--------  ----------  ----------  -----  ----------',
    'retrain   90.0 ± 2.0  90.0 ± 2.0   12.3     matches',
    'scrub<b>  50.0 ± 2.0  80.0 ± 2.0   12.3   collapsed',
  ]


def test_table_in_markdown():
  assert tables.comparison(make_cards()).to_markdown().splitlines() == [
    '| method | forget % | test % | run s | forgetting |',
    '| --- | ---: | ---: | ---: | ---: |',
    '| retrain | 90.0 ± 2.0 | 90.0 ± 2.0 | 12.3 | matches |',
    '| scrub<b> | 50.0 ± 2.0 | 80.0 ± 2.0 | 12.3 | collapsed |',
  ]


def test_table_without_reference_has_no_verdicts():
  card = make_card('original', 'accuracy.test', 0.9, verdict='no reference')
  undefined = make_card(
    'original', 'accuracy.forget', NAN, verdict='no reference'
  )
  table = tables.comparison([card, undefined])
  assert table.header == ('method', 'test %')
  assert [cell.text for cell in table.rows[0]] == ['original', '90.0 ± 2.0']


def test_table_has_further_metrics_as_they_are():
  card = make_card('a', 'distance.js', 0.00123, ci_low=0.001, ci_high=0.00146)
  forget = make_card('a', 'accuracy.forget', 0.5)
  table = tables.comparison([forget, card], ['distance.js', 'zrf'])
  assert table.header == ('method', 'forget %', 'distance.js', 'forgetting')
  assert table.rows[0][2].text == '0.00123 ± 0.00023'


def test_table_without_interval_shows_the_value_alone():
  card = make_card('a', 'average_gap', 0.1234, ci_low=NAN, ci_high=NAN)
  forget = make_card('a', 'accuracy.forget', 0.5)
  table = tables.comparison([forget, card])
  assert table.rows[0][2].text == '12.3'
  assert 'gap -77.7 points' in table.rows[0][2].detail.replace('−', '-')


def test_every_metric_stands_beside_its_ideal():
  card = make_card('ssd', 'zrf', 0.5, verdict='under')
  unknown = make_card('ssd', 'gum', NAN)
  reference = make_card('retrain', 'zrf', 0.9)
  table = tables.every_metric([reference, card, unknown])
  assert table.header == ('metric', 'ideal', 'noise', 'retrain', 'ssd')
  rows = [[cell.text for cell in row] for row in table.rows]
  assert rows == [['zrf', '0.9', '0.005', '0.9', 'under 0.5']]


def test_populations_have_intervals_and_ideals():
  cards = [
    make_card('original', 'ulira.auc', 0.6, verdict='under'),
    make_card('npo', 'ulira.auc', 0.5, ci_low=NAN, ci_high=NAN),
    make_card('npo', 'klom.mean', 1.0),
  ]
  table = tables.populations(cards)
  assert table.header == ('metric', 'method', 'value', 'ideal', 'verdict')
  ideal = '0.9 (0.89, 0.91)'
  assert [[cell.text for cell in row] for row in table.rows] == [
    ['ulira.auc', 'original', '0.6 (0.58, 0.62)', ideal, 'under'],
    ['ulira.auc', 'npo', '0.5', ideal, 'matches'],
    ['klom.mean', 'npo', '1 (0.98, 1.02)', ideal, 'matches'],
  ]


def test_ranks_are_given_where_methods_are_apart():
  def cards(method, gaps):
    gaps = tuple(gaps)
    mean = sum(gaps) / len(gaps)
    return [
      make_card(method, 'accuracy.forget', 0.9),
      make_card(
        method,
        'average_gap',
        mean,
        ideal=0.0,
        gap=mean,
        values=gaps,
        ideal_kind='theory',
      ),
    ]

  apart = [*cards('a', (0.1, 0.11, 0.12)), *cards('b', (0.3, 0.31, 0.32))]
  table = tables.comparison(apart)
  assert table.header[-1] == 'rank'
  assert [row[-1].text for row in table.rows] == ['1', '2']
  alike = [*cards('a', (0.1, 0.2, 0.3)), *cards('b', (0.3, 0.2, 0.15))]
  table = tables.comparison(alike)
  assert {row[-1].text for row in table.rows} == {'not separated'}


def test_plots_are_the_same_every_time_and_name_the_methods():
  cards = make_cards()
  first = plots.forgetting_against_utility(cards)
  assert first == plots.forgetting_against_utility(cards)
  assert first.startswith('<svg') and first.rstrip().endswith('</svg>')
  assert 'scrub&lt;b&gt; (collapsed)' in first
  assert 'retrain</text>' not in first  # It is the origin.
  curves = {
    'scrub': [{'forget_accuracy': np.array([1.0, 0.5])}],
    'fine_tune': [{'validation_accuracy': np.array([1.0, 0.9, 0.9])}] * 2,
  }
  svg = plots.learning_curves(curves, {'forget_accuracy': 0.9})
  assert 'scrub' in svg and 'fine_tune' in svg


def test_plots_without_anything_to_show():
  assert plots.forgetting_against_utility([]).startswith('<svg')
  assert plots.learning_curves({}, {}).startswith('<svg')


class PageTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.audio = rng.integers(-9_000, 9_000, 16_000).astype(np.int16)
    recording = pages.Recording(
      utterance_id='stop/<i>1',
      keyword='stop',
      speaker='7',
      audio=self.audio,
      sample_rate_hz=16_000,
      features=rng.normal(size=(98, 40)).astype(np.float16),
      hop_ms=10.0,
      note='Told apart <always>.',
      predictions=(
        pages.Prediction('original', 'stop', 0.987654, True),
        pages.Prediction('retrain', 'go', 0.5, False),
      ),
    )
    self.html = pages.render(
      pages.Page(
        title='Unlearning <speaker>',
        facts=[('seeds', '3')],
        warnings=['One & only.'],
        table=tables.comparison(make_cards()),
        table_title='Methods',
        table_text='Read <it>.',
        figures=[
          pages.Figure('Utility', 'Up & down.', '<svg id="utility"></svg>'),
          pages.Figure('Curves', '', ''),
        ],
        recordings_text='Some.',
        recordings=[('Forgotten', [recording]), ('Retained', [])],
      )
    )

  def test_needs_no_other_file(self):
    self.assertEmpty(re.findall(r'(?:src|href)="(?!data:)', self.html))
    self.assertNotIn('url(', self.html)

  def test_text_is_escaped(self):
    self.assertIn('Unlearning &lt;speaker&gt;', self.html)
    self.assertIn('scrub&lt;b&gt;', self.html)
    self.assertIn('One &amp; only.', self.html)
    self.assertIn('Told apart &lt;always&gt;.', self.html)
    self.assertNotIn('<i>', self.html)

  def test_audio_is_that_of_the_recording(self):
    data = re.search('data:audio/wav;base64,([^"]+)', self.html)[1]
    audio, rate = soundfile.read(
      io.BytesIO(base64.b64decode(data)), dtype='int16'
    )
    self.assertEqual(rate, 16_000)
    np.testing.assert_array_equal(audio, self.audio)

  def test_picture_is_a_png(self):
    data = re.search('data:image/png;base64,([^"]+)', self.html)[1]
    self.assertStartsWith(base64.b64decode(data), b'\x89PNG')

  def test_predictions_before_and_after(self):
    row = r'<tr><td>(\w+)</td><td(.*?)>(\w+)</td><td>(.*?)<'
    rows = re.findall(row, self.html)
    self.assertEqual(
      rows,
      [
        ('original', '', 'stop', '0.988'),
        ('retrain', ' class="wrong"', 'go', '0.500'),
      ],
    )

  def test_sections_without_content_are_left_out(self):
    self.assertIn('<h2>Utility</h2>', self.html)
    self.assertIn('Up &amp; down.', self.html)
    self.assertNotIn('Curves', self.html)
    self.assertNotIn('>Retained<', self.html)
    self.assertIn('>Forgotten<', self.html)


if __name__ == '__main__':
  absltest.main()
