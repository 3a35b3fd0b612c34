"""Pictures of embeddings: where a forgotten speaker lies among the others."""

from collections.abc import Mapping
from typing import Literal

import matplotlib
from matplotlib import figure
import numpy as np
import scipy.linalg
import sklearn.decomposition
import sklearn.manifold
import threadpoolctl

from unlearn_jax.reporting.plots import STYLE
from unlearn_jax.reporting.plots import svg_of

Kind = Literal['pca', 'tsne']

_FORGOTTEN_COLOURS = ('#c2410c', '#7c2d12', '#db2777')
_RETAINED_COLOURS = (
  '#a3bfdd',
  '#a9d3b2',
  '#c9b8dd',
  '#9fd0d6',
  '#d9c7a8',
  '#b9c0c9',
)
_MOST_RETAINED, _MOST_FORGOTTEN = 600, 200  # Points in a panel.
_TITLES = {'pca': 'principal components', 'tsne': 't-SNE'}


def project(
  embeddings: np.ndarray,
  is_forgotten: np.ndarray,
  kind: Kind = 'pca',
  *,
  keyword: np.ndarray | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Returns two coordinates of each embedding, [n, 2] float64.

  Principal components are those of the retained speakers alone, so that the
  plane does not turn towards what is to be forgotten; t-SNE lays all out.

  Args:
    embeddings: [n, features], finite.
    is_forgotten: [n] bool, not all True.
    kind: 'pca', or 'tsne', which takes seconds for a thousand embeddings.
    keyword: [n], what was said: what its utterances have in common is taken
      away, for in a keyword spotter it would hide the voices. None leaves it.
    seed: of t-SNE.

  Raises:
    ValueError: for another kind, fewer than two features, fewer than three
      retained embeddings, or one that is not finite.
  """
  x, retained = np.array(embeddings, np.float64), ~np.asarray(is_forgotten)
  if kind not in _TITLES:
    raise ValueError(f'kind must be pca or tsne, got {kind}.')
  if x.ndim != 2 or x.shape[1] < 2 or retained.sum() < 3:
    raise ValueError(
      'embeddings must be [n, features], at least [3, 2] of retained speakers, '
      f'got {x.shape}, of which {retained.sum()} retained.'
    )
  if not np.isfinite(x).all():
    raise ValueError('embeddings must be finite, got some that are not.')
  x -= x[retained].mean(0)
  for word in () if keyword is None else np.unique(keyword[retained]):
    said = keyword == word
    x[said] -= x[said & retained].mean(0)
  if not np.ptp(x, axis=0).any():  # A collapsed model: all in one place.
    return np.zeros((len(x), 2))
  if kind == 'pca':
    pca = sklearn.decomposition.PCA(2, svd_solver='full').fit(x[retained])
    return pca.transform(x)
  return _tsne(x, seed)


def _tsne(x, seed):
  tsne = sklearn.manifold.TSNE(
    perplexity=min(30.0, (len(x) - 1) / 3),
    init='pca',
    max_iter=500,  # Twice as many lower its divergence by a twentieth.
    random_state=seed,
  )
  with threadpoolctl.threadpool_limits(1):  # Threads here wait for each other.
    return tsne.fit_transform(x).astype(np.float64)


def embedding_scatter(
  panels: Mapping[str, np.ndarray],
  is_forgotten: np.ndarray,
  speaker: np.ndarray,
  kind: Kind = 'pca',
  *,
  keyword: np.ndarray | None = None,
  seed: int = 0,
) -> str:
  """Plots the same utterances as several models embed them, side by side.

  Each model has a space of its own. So each is projected by itself, and turned,
  mirrored and scaled as a whole to lie like the first; distances compare within
  a panel.

  Args:
    panels: embeddings [n, features] by title, for instance before unlearning,
      after, and of a retrained model.
    is_forgotten: [n] bool.
    speaker: [n]; retained speakers have light colours, forgotten ones strong
      ones and a legend.
    kind: see `project`.
    keyword: see `project`.
    seed: of t-SNE, and of the choice where there are more than 600 utterances
      of retained or 200 of forgotten speakers.

  Returns:
    an `<svg>` element.

  Raises:
    ValueError: as `project`.
  """
  rows = _drawn(np.asarray(is_forgotten, bool), seed)
  gone, who = np.asarray(is_forgotten, bool)[rows], np.asarray(speaker)[rows]
  words = None if keyword is None else np.asarray(keyword)[rows]
  points = [
    project(x[rows], gone, kind, keyword=words, seed=seed)
    for x in panels.values()
  ]
  points = [_like(points[0], of, gone) for of in points]
  with matplotlib.rc_context(STYLE):
    columns = min(3, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    size = 3.0 * columns, 3.1 * lines + 0.5
    fig = figure.Figure(figsize=size, dpi=200, layout='constrained')
    drawn = fig.subplots(lines, columns, squeeze=False).ravel()
    for axes, title, xy in zip(drawn, panels, points, strict=False):
      axes.set_title(title, loc='left', fontsize=9)
      _draw(axes, xy, gone, who)
    for axes in drawn[len(panels) :]:
      axes.set_visible(False)
    fig.supxlabel(_TITLES[kind], fontsize=8, color='0.4')
    handles, labels = drawn[0].get_legend_handles_labels()
    if panels:
      fig.legend(
        handles, labels, loc='outside upper right', ncols=4, frameon=False
      )
  return svg_of(fig)


def _drawn(is_forgotten, seed):
  """Returns rows of as many utterances as can be told apart in a picture."""
  rng = np.random.default_rng(seed)
  retained = rng.permutation(np.flatnonzero(~is_forgotten))[:_MOST_RETAINED]
  forgotten = rng.permutation(np.flatnonzero(is_forgotten))[:_MOST_FORGOTTEN]
  return np.sort(np.concatenate([retained, forgotten]))


def _like(first, points, is_forgotten):
  """Turns points to lie like others; the retained ones have spread 1."""
  first, points = (
    (xy - xy[~is_forgotten].mean(0)) / (xy[~is_forgotten].std() or 1.0)
    for xy in (first, points)
  )
  turn, _ = scipy.linalg.orthogonal_procrustes(
    points[~is_forgotten], first[~is_forgotten]
  )
  return points @ turn


def _draw(axes, xy, is_forgotten, speaker):
  axes.set_aspect('equal', adjustable='datalim')
  axes.set(xticks=[], yticks=[])
  for side in axes.spines.values():
    side.set(visible=True, color='0.85')
  dots = {'s': 9, 'linewidths': 0, 'rasterized': True}  # SVG would be large.
  axes.scatter([], [], color='0.75', label='retained', **dots)
  for of, colours, label in (
    (~is_forgotten, _RETAINED_COLOURS, None),
    (is_forgotten, _FORGOTTEN_COLOURS, 'forgotten: {}'),
  ):
    for i, s in enumerate(np.unique(speaker[of])):
      axes.scatter(
        *xy[(speaker == s) & of].T,
        color=colours[i % len(colours)],
        label=label and label.format(s),
        **dots,
      )
