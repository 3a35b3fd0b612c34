"""Pictures of embeddings: coordinates, what is drawn, and limits."""

import numpy as np
import pytest
import scipy.spatial.distance
import sklearn.metrics

from unlearn_jax.reporting import embedding_plots
from unlearn_jax.reporting.embedding_plots import embedding_scatter
from unlearn_jax.reporting.embedding_plots import project

RNG = np.random.default_rng(0)
SPEAKER = np.repeat(np.arange(4), 25)
IS_FORGOTTEN = SPEAKER == 3
# Three retained speakers in a plane, the forgotten one along a third axis.
CENTRES = np.array([[6.0, 0, 0, 0], [-6, 0, 0, 0], [0, 4, 0, 0], [0, 0, 20, 0]])
EMBEDDINGS = CENTRES[SPEAKER] + RNG.normal(size=(100, 4))


def test_plane_is_that_of_the_retained_speakers():
  xy = project(EMBEDDINGS, IS_FORGOTTEN)
  x = EMBEDDINGS - EMBEDDINGS[~IS_FORGOTTEN].mean(0)
  _, _, axes = np.linalg.svd(x[~IS_FORGOTTEN], full_matrices=False)
  np.testing.assert_allclose(np.abs(xy), np.abs(x @ axes[:2].T), atol=1e-9)
  # So the third axis, the longest of all, is not in it.
  assert np.ptp(xy[IS_FORGOTTEN]) < 15


def test_plane_does_not_see_rotation():
  turn = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
  one, other = (
    scipy.spatial.distance.pdist(project(x, IS_FORGOTTEN))
    for x in (EMBEDDINGS, EMBEDDINGS @ turn + 3.0)
  )
  np.testing.assert_allclose(one, other, atol=1e-8)


def test_tsne_is_the_same_every_time_and_keeps_speakers_together():
  points = [project(EMBEDDINGS, IS_FORGOTTEN, 'tsne') for _ in range(2)]
  np.testing.assert_array_equal(*points)
  assert points[0].shape == (100, 2)
  assert sklearn.metrics.silhouette_score(points[0], SPEAKER) > 0.5


def test_what_was_said_is_taken_away():
  keyword = np.tile(np.arange(5), 20)
  said = 50.0 * RNG.normal(size=(5, 4))[keyword]
  points = project(EMBEDDINGS + said, IS_FORGOTTEN, keyword=keyword)
  want = project(EMBEDDINGS, IS_FORGOTTEN, keyword=keyword)
  np.testing.assert_allclose(points, want, atol=1e-8)
  hidden = project(EMBEDDINGS + said, IS_FORGOTTEN)
  score = sklearn.metrics.silhouette_score
  retained = ~IS_FORGOTTEN
  assert score(points[retained], SPEAKER[retained]) > 0.5
  assert score(hidden[retained], SPEAKER[retained]) < 0.1


@pytest.mark.parametrize('kind', ['pca', 'tsne'])
def test_collapsed_model_is_one_point(kind):
  np.testing.assert_array_equal(
    project(np.full((100, 4), 0.1), IS_FORGOTTEN, kind), 0.0
  )


def test_panels_lie_like_the_first():
  first = project(EMBEDDINGS, IS_FORGOTTEN)
  turned = 7.0 * first[:, ::-1] * [1, -1] + 5.0
  one, other = (
    embedding_plots._like(first, xy, IS_FORGOTTEN) for xy in (first, turned)
  )
  np.testing.assert_allclose(one, other, atol=1e-9)
  assert one[~IS_FORGOTTEN].std() == pytest.approx(1.0)


def test_models_are_panels_and_forgotten_speakers_are_named():
  names = np.array(['ann', 'bob', 'cy<b>', 'dan'])[SPEAKER]
  panels = {
    'before': EMBEDDINGS,
    'after <b>': EMBEDDINGS[:, ::-1],
    'retrain': np.ones((100, 4)),
    'other size': np.tile(EMBEDDINGS, 2),
  }
  svg = embedding_scatter(panels, IS_FORGOTTEN, names)
  assert svg == embedding_scatter(panels, IS_FORGOTTEN, names)
  for text in (
    'before',
    'after &lt;b&gt;',
    'retrain',
    'other size',
    'retained',
  ):
    assert f'>{text}<' in svg
  assert '>forgotten: dan<' in svg and 'forgotten: ann' not in svg
  assert svg.startswith('<svg') and len(svg) < 500_000
  assert svg != embedding_scatter(panels, IS_FORGOTTEN, names, 'tsne')


def test_nothing_to_draw_is_no_error():
  assert embedding_scatter({}, IS_FORGOTTEN, SPEAKER).startswith('<svg')
  nobody = np.zeros(100, bool)
  svg = embedding_scatter({'before': EMBEDDINGS}, nobody, SPEAKER)
  assert '>before<' in svg and 'forgotten' not in svg


def test_thousands_of_utterances_are_thinned():
  is_forgotten = np.arange(5_000) < 1_000
  rows = embedding_plots._drawn(is_forgotten, 0)
  assert is_forgotten[rows].sum() == 200 and len(set(rows)) == 800


def test_bad_input():
  with pytest.raises(ValueError, match='kind must be pca or tsne, got umap'):
    project(EMBEDDINGS, IS_FORGOTTEN, 'umap')
  with pytest.raises(ValueError, match=r'got \(100, 4\), of which 0 retained'):
    project(EMBEDDINGS, np.ones(100, bool))
  with pytest.raises(ValueError, match='must be finite'):
    project(np.full((100, 4), np.nan), IS_FORGOTTEN)
