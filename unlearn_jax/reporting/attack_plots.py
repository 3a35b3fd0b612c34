"""Pictures of attacks and of layers, as `<svg>` elements."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import figure
import matplotlib.ticker
import numpy as np

from unlearn_jax.evaluation import roc
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.reporting.plots import STYLE
from unlearn_jax.reporting.plots import svg_of

_REFERENCE_COLOUR = '#16a34a'
_SET_COLOURS = {'forget': '#c2410c', 'retain': '#1d4ed8'}
_MOST_POINTS = 400


def roc_curves(
  scores: Mapping[str, tuple[np.ndarray, np.ndarray]],
  reference: str = 'retrain',
) -> str:
  """Plots ROC curves on logarithmic axes; chance is the dotted line.

  Args:
    scores: of each method, those of members and of non-members, higher for
      members; a method that lacks a side is left out.
    reference: the method that is drawn thick and green.

  Returns:
    an `<svg>` element.
  """
  drawn = {k: v for k, v in scores.items() if len(v[0]) and len(v[1])}
  with matplotlib.rc_context(STYLE):
    fig = figure.Figure(figsize=(7.5, 5), layout='constrained')
    axes = fig.subplots()
    smallest = 1.0
    for i, (method, (members, others)) in enumerate(drawn.items()):
      false, true = _thinned(*roc.curve(members, others))
      smallest = min(smallest, 1 / len(others), 1 / len(members))
      axes.plot(false, true, label=method, **_line(i, method == reference))
    low = min(max(smallest, 1e-5), 0.1)
    chance = np.geomspace(low, 1, 50)
    axes.plot(chance, chance, color='0.5', ls=':', lw=1)
    axes.set(xscale='log', yscale='log', xlim=(low, 1), ylim=(low, 1))
    axes.set_xlabel('false positive rate')
    axes.set_ylabel('true positive rate')
    if drawn:
      fig.legend(loc='outside right upper', frameon=False)
  return svg_of(fig)


def _line(i, is_reference):
  if is_reference:
    return {'color': _REFERENCE_COLOUR, 'lw': 2.2, 'zorder': 3}
  styles = ('-', '--', '-.')
  colours = [c for c in range(10) if c != 2]  # Green is the reference.
  return {
    'color': matplotlib.colormaps['tab10'](colours[i % 9]),
    'ls': styles[i // 9 % 3],
    'lw': 1.2,
  }


def _thinned(false, true):
  """Keeps few points, most of them where the rates are small."""
  if len(false) <= _MOST_POINTS:
    return false, true
  keep = np.unique(np.geomspace(1, len(false), _MOST_POINTS).astype(int) - 1)
  return false[keep], true[keep]


def score_histograms(
  values: Mapping[str, np.ndarray], label: str, reference: str = 'retrain'
) -> str:
  """Plots how a value of each example is distributed, a panel a method.

  Args:
    values: of each method, [examples]; what is not finite is left out.
    label: of the value.
    reference: the method that is drawn behind every other one.

  Returns:
    an `<svg>` element.
  """
  finite = {k: v[np.isfinite(v)] for k, v in values.items()}
  finite = {k: v for k, v in finite.items() if len(v)}
  others = [name for name in finite if name != reference]
  columns = min(3, max(1, len(others)))
  rows = max(1, -(-len(others) // columns))
  joined = np.concatenate([*finite.values(), np.zeros(0)])
  bins = np.histogram_bin_edges(joined, 30) if len(joined) else [0, 1]
  with matplotlib.rc_context(STYLE):
    fig = figure.Figure(figsize=(9, 1.9 * rows + 0.5), layout='constrained')
    panels = fig.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes, method in zip(panels, others, strict=False):
      axes.set_title(method, loc='left', fontsize=9)
      if reference in finite:
        axes.hist(
          finite[reference],
          bins,
          density=True,
          color=_REFERENCE_COLOUR,
          alpha=0.3,
          label=reference,
        )
      axes.hist(
        finite[method],
        bins,
        density=True,
        histtype='step',
        color=_SET_COLOURS['forget'],
        label='method',
      )
      axes.set_yticks([])
    for axes in panels[len(others) :]:
      axes.set_visible(False)
    fig.supxlabel(label, fontsize=9)
    if others:
      handles, labels = panels[0].get_legend_handles_labels()
      fig.legend(
        handles, labels, loc='outside upper right', ncols=2, frameon=False
      )
  return svg_of(fig)


def layer_bars(cards: Sequence[MetricCard]) -> str:
  """Plots the alignment of each layer with retraining, a panel a layer.

  The line is the alignment of retrained models with each other, on the set of
  the same colour; the mark is the alignment with the original model, forget
  set.

  Args:
    cards: among them those of 'cka.*'.

  Returns:
    an `<svg>` element; '' if there is no such card.
  """
  prefix = 'cka.retrain.forget.'
  layers = list(
    dict.fromkeys(
      card.name.removeprefix(prefix)
      for card in cards
      if card.name.startswith(prefix)
    )
  )
  by_name = {(c.provenance['method'], c.name): c for c in cards}
  methods = [
    method
    for method in dict.fromkeys(c.provenance['method'] for c in cards)
    if any((method, f'{prefix}{layer}') in by_name for layer in layers)
  ]
  if not layers:
    return ''
  with matplotlib.rc_context(STYLE):
    height = 0.32 * len(methods) + 1.1
    fig = figure.Figure(figsize=(9, height), layout='constrained')
    panels = fig.subplots(1, len(layers), sharey=True, squeeze=False).ravel()
    where = np.arange(len(methods))
    values = [c.value for c in cards if c.name.startswith('cka.')]
    lowest = max(0.0, np.floor(20 * np.nanmin(values) - 1) / 20)
    for axes, layer in zip(panels, layers, strict=True):
      axes.set_title(layer, fontsize=8)
      for k, (part, colour) in enumerate(_SET_COLOURS.items()):
        name = f'cka.retrain.{part}.{layer}'
        own = [by_name.get((method, name)) for method in methods]
        axes.barh(
          where + 0.35 * (k - 0.5),
          [np.nan if card is None else card.value for card in own],
          height=0.33,
          color=colour,
          label=f'{part} set',
        )
        ideal = next((c.ideal for c in own if c is not None), np.nan)
        axes.axvline(ideal, color=colour, lw=1, ls='--')
      before = [
        by_name.get((method, f'cka.original.forget.{layer}'))
        for method in methods
      ]
      axes.plot(
        [np.nan if card is None else card.value for card in before],
        where,
        'k|',
        label='with the original',
      )
      axes.set_xlim(lowest, 1.005)
      axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    panels[0].set_yticks(where, methods, fontsize=8)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(
      handles, labels, loc='outside upper right', ncols=3, frameon=False
    )
  return svg_of(fig)
