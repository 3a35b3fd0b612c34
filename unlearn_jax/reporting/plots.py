"""Pictures of a report, as strings that stand in a page by themselves."""

import base64
from collections.abc import Mapping, Sequence
import io
import math
import re
from typing import Any
import zlib

import matplotlib
from matplotlib import figure
import matplotlib.ticker
import numpy as np

from unlearn_jax.evaluation.metric_card import MetricCard

_FORGET, _UTILITY = 'accuracy.forget', 'accuracy.test'
_FORGET_COLOUR, _VALIDATION_COLOUR = '#c2410c', '#1d4ed8'
_LINEAR_POINTS = 1.0
STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'svg.hashsalt': 'unlearn_jax',  # Else no two files are the same.
  'svg.fonttype': 'none',
}


def svg_of(fig: figure.Figure) -> str:
  """Returns a figure as an `<svg>` element."""
  with io.StringIO() as file, matplotlib.rc_context(STYLE):
    fig.savefig(file, format='svg', metadata={'Date': None})
    text = file.getvalue()
  return _with_shared_styles(_bare(text[text.index('<svg') :]))


def _bare(svg: str) -> str:
  """Takes away names of groups, and groups that do nothing: half of a page."""
  svg = re.sub(r'<g id="[^"]*">', '<g>', svg)
  found = 1
  while found:
    svg, found = re.subn(r'<g>\s*((?:<use [^>]*/>\s*)+)</g>', r'\1', svg)
  return re.sub(r'\s*\n\s*', '\n', svg)


def _with_shared_styles(svg: str) -> str:
  """Names each style once: a point is short, and a page holds thousands.

  A name is made of the style, so pictures beside each other agree on it.
  """
  styles = {}

  def named(match):
    name = f's{zlib.crc32(match[1].encode()):08x}'
    styles[name] = match[1]
    return f'class="{name}"'

  body = re.sub(r'style="([^"]*)"', named, svg)
  rules = ''.join(f'.{name}{{{style}}}' for name, style in styles.items())
  start = body.index('>') + 1  # Of the first element, the picture itself.
  return f'{body[:start]}<style>{rules}</style>{body[start:]}'


def height_for(names: int) -> float:
  """Returns the inches that a picture needs beside a legend of so many."""
  return max(5.0, 0.2 * names)


def forgetting_against_utility(cards: Sequence[MetricCard]) -> str:
  """Plots forget and test accuracy of each method, both less retraining's.

  Axes are linear within a point and logarithmic beyond, so that methods near
  retraining can be told apart beside one that has collapsed. The band is the
  noise floor.

  Args:
    cards: of methods that have a reference.

  Returns:
    an `<svg>` element.
  """
  own: dict[str, dict[str, MetricCard]] = {}
  for card in cards:
    if card.name in (_FORGET, _UTILITY) and not math.isnan(card.gap):
      own.setdefault(card.provenance['method'], {})[card.name] = card
  with matplotlib.rc_context(STYLE):
    points = {m: c for m, c in own.items() if len(c) == 2 and m != 'retrain'}
    size = 7.5, height_for(len(points))
    fig = figure.Figure(figsize=size, layout='constrained')
    axes = fig.subplots()
    for card in next(iter(own.values()), {}).values():
      floor = 0.0 if math.isnan(card.noise_floor) else 100 * card.noise_floor
      span = axes.axvspan if card.name == _FORGET else axes.axhspan
      span(-floor, floor, color='#16a34a', alpha=0.12, lw=0)
    axes.axvline(0, color='#16a34a', lw=1)
    axes.axhline(0, color='#16a34a', lw=1)
    for i, (method, pair) in enumerate(points.items()):
      forget, utility = pair[_FORGET], pair[_UTILITY]
      x, y = 100 * forget.gap, 100 * utility.gap
      axes.errorbar(
        x,
        y,
        xerr=_gap_half_width(forget),
        yerr=_gap_half_width(utility),
        marker='os^Dv<>PXhp*d'[i % 13],
        color=matplotlib.colormaps['tab10'](i % 10),
        label=method + (' (collapsed)' if forget.collapsed else ''),
        capsize=2,
        lw=1,
      )
    for axis in (axes.xaxis, axes.yaxis):
      scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
      scale('symlog', linthresh=_LINEAR_POINTS)
      axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%.3g'))
    axes.set_xlabel(
      'forget accuracy less retraining, points   (left: forgotten too much)'
    )
    axes.set_ylabel('test accuracy less retraining, points')
    if points:
      fig.legend(loc='outside right upper', frameon=False)
  return svg_of(fig)


def _gap_half_width(card: MetricCard) -> float:
  half = 100 * (card.ci_high - card.ci_low) / 2
  return 0.0 if math.isnan(half) else half


def learning_curves(
  curves: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
  retrained: Mapping[str, float],
) -> str:
  """Plots forget and validation accuracy after each epoch, a panel a method.

  Args:
    curves: of each method, of each seed, values after each epoch from 0 by
      name; `forget_accuracy` and `validation_accuracy` are drawn.
    retrained: final values of retraining, for a dashed line; may be empty.

  Returns:
    an `<svg>` element.
  """
  drawn = {
    'forget_accuracy': ('forget', _FORGET_COLOUR),
    'validation_accuracy': ('validation', _VALIDATION_COLOUR),
  }
  columns = min(3, max(1, len(curves)))
  rows = max(1, -(-len(curves) // columns))
  with matplotlib.rc_context(STYLE):
    fig = figure.Figure(figsize=(9, 2.1 * rows + 0.4), layout='constrained')
    panels = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (method, seeds) in zip(panels, curves.items(), strict=False):
      axes.set_title(method, loc='left', fontsize=9)
      for name, (label, colour) in drawn.items():
        for k, values in enumerate(v[name] for v in seeds if name in v):
          axes.plot(
            np.arange(len(values)),
            100 * np.asarray(values),
            color=colour,
            lw=1.2,
            alpha=1.0 if len(seeds) == 1 else 0.6,
            label=label if k == 0 else None,
          )
        if name in retrained:
          axes.axhline(100 * retrained[name], color=colour, lw=0.8, ls='--')
      axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(integer=True, nbins=5)
      )
      axes.set_ylim(-3, 103)
    for axes in panels[len(curves) :]:
      axes.set_visible(False)
    fig.supxlabel('epoch', fontsize=9)
    fig.supylabel('accuracy, %', fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(
      handles, labels, loc='outside upper right', ncols=2, frameon=False
    )
  return svg_of(fig)


def log_mel_picture(features: np.ndarray, hop_ms: float) -> str:
  """Draws log-mel features over time.

  Args:
    features: [frames, bins].
    hop_ms: from one frame to the next.

  Returns:
    a `data:` address of a PNG picture.
  """
  seconds = len(features) * hop_ms / 1_000
  with matplotlib.rc_context(STYLE), io.BytesIO() as file:
    fig = figure.Figure(figsize=(3.6, 1.7), layout='constrained')
    axes = fig.subplots()
    axes.imshow(
      np.asarray(features, np.float32).T,
      origin='lower',
      aspect='auto',
      cmap='magma',
      extent=(0.0, seconds, 0.0, features.shape[1]),
    )
    axes.set_xlabel('time, s', fontsize=8)
    axes.set_ylabel('mel band', fontsize=8)
    axes.tick_params(labelsize=7)
    fig.savefig(file, format='png', dpi=110)
    data = file.getvalue()
  return f'data:image/png;base64,{base64.b64encode(data).decode()}'
