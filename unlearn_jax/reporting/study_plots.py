"""Pictures of studies: how settings matter, and what forgetting costs."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import matplotlib
from matplotlib import figure
import matplotlib.ticker
import numpy as np

from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.results_block import Block
from unlearn_jax.reporting.plots import height_for
from unlearn_jax.reporting.plots import STYLE
from unlearn_jax.reporting.plots import svg_of

_COLOURS = {
  ('adamw', 'constant'): ('#1d4ed8', 'AdamW'),
  ('adamw', 'cosine'): ('#0891b2', 'AdamW, cosine'),
  ('sgd', 'constant'): ('#c2410c', 'SGD'),
  ('sgd', 'cosine'): ('#d97706', 'SGD, cosine'),
}
_IDEAL = '#16a34a'


def sensitivity(searches: Sequence[Mapping[str, Any]]) -> str:
  """Plots the gap of every setting that a search tried, a panel a search.

  Across is the learning rate; for a rule without one, the first scalar of its
  options that was searched. The ring is the setting that was chosen, the cross
  the preset, and the green line the gap between two retrained models.

  Args:
    searches: records that `experiments.benchmark` wrote.

  Returns:
    an `<svg>` element.
  """
  columns = min(4, max(1, len(searches)))
  rows = max(1, -(-len(searches) // columns))
  with matplotlib.rc_context(STYLE):
    fig = figure.Figure(figsize=(10, 1.9 * rows + 0.5), layout='constrained')
    panels = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axes, record in zip(panels, searches, strict=False):
      handles |= _sensitivity_panel(axes, record)
    for axes in panels[len(searches) :]:
      axes.set_visible(False)
    fig.supylabel('average gap to retraining, points', fontsize=9)
    fig.legend(
      list(handles.values()),
      list(handles),
      loc='outside upper right',
      ncols=4,
      frameon=False,
    )
  return svg_of(fig)


def _sensitivity_panel(axes, record):
  """Draws one search; returns what the legend needs."""
  trials, handles = record['trials'], {}
  name = _across(trials)
  values = np.array([_value(trial['preset'], name) for trial in trials])
  gaps = 100 * np.array([trial['gap'] for trial in trials], float)
  kinds = [(t['preset']['algorithm'], t['preset']['schedule']) for t in trials]
  for kind, (colour, label) in _COLOURS.items():
    mine = np.array([k == kind for k in kinds])
    if mine.any():
      handles[label] = axes.scatter(
        values[mine], gaps[mine], s=9, color=colour, alpha=0.8
      )
  chosen = record['chosen']
  axes.scatter(
    values[chosen], gaps[chosen], s=60, facecolors='none', edgecolors='k'
  )
  own = record['preset']
  if own is not None:
    axes.scatter(values[own], gaps[own], s=40, marker='x', color='k', lw=1)
  if record['retrain_gaps']:
    axes.axhline(100 * np.mean(record['retrain_gaps']), color=_IDEAL, lw=1)
  if (values > 0).all():
    _log_x(axes)
  axes.set_yscale('symlog', linthresh=1.0)
  axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%.3g'))
  axes.set_ylim(0, 100)
  axes.set_title(f'{record["method"]}, {record["forget"]}', fontsize=8)
  axes.set_xlabel(name.replace('_', ' '), fontsize=8)
  axes.tick_params(labelsize=7)
  return handles


def _log_x(axes):
  """Makes the axis logarithmic, with plain numbers that do not overlap."""
  axes.set_xscale('log')
  axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%.3g'))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  low, high = axes.get_xlim()
  if high < 30 * low:  # Else there would be one number, or none.
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 3)))


def _across(trials) -> str:
  """Names what changes most over the trials: the learning rate, or a scalar."""
  names = ['learning_rate', *trials[0]['preset']['options']]
  for name in names:
    if len({_value(trial['preset'], name) for trial in trials}) > 1:
      return name
  return names[0]


def _value(preset, name):
  found = preset['options'].get(name, preset.get(name))
  return found if isinstance(found, int | float) else math.nan


def ratio_curves(blocks: Sequence[Block], metric: str = 'average_gap') -> str:
  """Plots a metric over the share of the training set that is forgotten.

  Args:
    blocks: results of one task; those of samples in percent are drawn, without
      controls.
    metric: a share.

  Returns:
    an `<svg>` element; '' for fewer than two ratios.
  """
  points = sorted(
    (
      (float(block.request.removeprefix('sample:')[:-1]), block)
      for block in blocks
      if block.kind == 'sample' and block.request.endswith('%')
      if not block.condition
    ),
    key=lambda point: point[0],
  )
  if len(points) < 2:
    return ''
  ratios = [ratio for ratio, _ in points]
  with matplotlib.rc_context(STYLE):
    size = 8, height_for(len(points[0][1].cards))
    fig = figure.Figure(figsize=size, layout='constrained')
    axes = fig.subplots()
    for i, method in enumerate(points[0][1].cards):
      cards = [block.cards.get(method, {}).get(metric) for _, block in points]
      values = [math.nan if c is None else 100 * c.value for c in cards]
      if np.isnan(values).all():
        continue
      is_ideal = method == RETRAIN
      axes.plot(
        ratios,
        values,
        marker='os^Dv<>PXhp*d'[i % 13],
        color=_IDEAL if is_ideal else matplotlib.colormaps['tab20'](i % 20),
        lw=2.5 if is_ideal else 1,
        label=method,
      )
    axes.set_yscale('symlog', linthresh=1.0)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%.3g'))
    axes.set_xlabel('forgotten, percent of the training set')
    axes.set_ylabel(f'{metric.replace("_", " ")}, points')
    fig.legend(loc='outside right upper', frameon=False)
  return svg_of(fig)


def cost_against_gap(block: Block) -> str:
  """Plots the average gap of each method over its share of retraining's time.

  Args:
    block: results of one request.

  Returns:
    an `<svg>` element; '' if no method has both.
  """
  needed = {'cost.rte', 'average_gap'}
  if not any(needed <= set(block.cards[m]) for m in block.methods()):
    return ''
  with matplotlib.rc_context(STYLE):
    size = 8, height_for(len(block.cards))
    fig = figure.Figure(figsize=size, layout='constrained')
    axes = fig.subplots()
    for i, method in enumerate(block.methods()):
      cards = block.cards[method]
      if not needed <= set(cards):
        continue
      axes.scatter(
        100 / cards['cost.rte'].value,
        100 * cards['average_gap'].value,
        marker='os^Dv<>PXhp*d'[i % 13],
        color=matplotlib.colormaps['tab20'](i % 20),
        label=method,
      )
    floor = block.cards[RETRAIN].get('average_gap')
    if floor is not None and not math.isnan(floor.value):
      axes.axhline(100 * floor.value, color=_IDEAL, lw=1)
    _log_x(axes)
    axes.set_yscale('symlog', linthresh=1.0)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%.3g'))
    axes.set_xlabel('time, percent of that of retraining')
    axes.set_ylabel('average gap to retraining, points')
    fig.legend(loc='outside right upper', frameon=False)
  return svg_of(fig)
