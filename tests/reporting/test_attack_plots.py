"""Pictures of attacks: what is drawn, and that nothing to draw is no error."""

import numpy as np
from test_reporting import make_card

from unlearn_jax.reporting import attack_plots

RNG = np.random.default_rng(0)


def test_roc_names_those_that_have_both_sides():
  scores = {
    'retrain': (RNG.random(50), RNG.random(50)),
    'scrub<b>': (RNG.random(5_000) + 0.1, RNG.random(5_000)),
    'empty': (RNG.random(5), np.zeros(0)),
  }
  svg = attack_plots.roc_curves(scores)
  assert svg == attack_plots.roc_curves(scores)
  assert 'retrain' in svg and 'scrub&lt;b&gt;' in svg and 'empty' not in svg
  assert len(svg) < 100_000  # Curves of thousands of points are thinned.
  assert attack_plots.roc_curves({}).startswith('<svg')


def test_thinned_curves_keep_their_ends():
  rates = np.linspace(0, 1, 10_000)
  false, true = attack_plots._thinned(rates, rates)
  assert (false[0], false[-1]) == (0.0, 1.0) and len(false) <= 400
  np.testing.assert_array_equal(false, true)


def test_histograms_leave_out_what_is_not_finite():
  values = {
    'retrain': RNG.random(40),
    'ssd': np.array([0.1, np.nan, np.inf]),
    'none': np.full(3, np.nan),
  }
  svg = attack_plots.score_histograms(values, 'loss')
  assert '>ssd<' in svg and '>loss<' in svg and '>none<' not in svg
  assert attack_plots.score_histograms({}, 'loss').startswith('<svg')


def test_layers_are_panels_and_methods_are_bars():
  cards = [
    make_card(method, f'cka.{whose}.{part}.{layer}', 0.8)
    for method in ('retrain', 'ssd')
    for layer in ('Conv', 'Head')
    for whose in ('retrain', 'original')
    for part in ('forget', 'retain')
  ]
  svg = attack_plots.layer_bars([*cards, make_card('ssd', 'aus', 0.9)])
  for text in ('Conv', 'Head', 'ssd', 'forget set', 'with the original'):
    assert f'>{text}<' in svg
  assert attack_plots.layer_bars([make_card('ssd', 'aus', 0.9)]) == ''
