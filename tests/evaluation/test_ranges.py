"""The range of every metric, on whatever hypothesis can think of."""

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from unlearn_jax.evaluation import accuracy
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import composite
from unlearn_jax.evaluation import forgetting_score
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import klom
from unlearn_jax.evaluation import outputs
from unlearn_jax.evaluation import population_mia
from unlearn_jax.evaluation import relearn
from unlearn_jax.evaluation import representation
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation import ulira

SHARE = st.floats(0, 1)
LOGIT = st.floats(-1e3, 1e3, width=32)


@st.composite
def arrays(draw, least=1, count=2):
  """Several arrays [rows, columns] of the same shape."""
  shape = draw(st.integers(least, 12)), draw(st.integers(2, 5))
  return [
    draw(hnp.arrays(np.float64, shape, elements=LOGIT)) for _ in range(count)
  ]


@st.composite
def answers(draw):
  size = draw(st.integers(1, 30))
  classes = hnp.arrays(np.int64, size, elements=st.integers(0, 4))
  return draw(classes), draw(classes)


worlds = arrays(least=4)


class RangesTest(parameterized.TestCase):
  def assert_in(self, value, low, high):
    values = np.atleast_1d(np.asarray(value, float))
    values = values[~np.isnan(values)]
    self.assertTrue(((low <= values) & (values <= high)).all(), value)

  @hypothesis.given(answers())
  def test_of_predictions(self, pair):
    for metric in (
      accuracy.accuracy,
      accuracy.balanced_accuracy,
      accuracy.macro_f1,
      collapse.prediction_entropy,
    ):
      self.assert_in(metric(*pair), 0, 1)
    self.assert_in(collapse.excess(*pair), -np.inf, 1)
    self.assertEqual(accuracy.accuracy(pair[0], pair[0]), 1.0)
    self.assertFalse(collapse.excess(pair[0], pair[0]) > 1e-12)

  @hypothesis.given(arrays())
  def test_of_outputs(self, pair):
    p, q = map(outputs.probabilities, pair)
    self.assert_in(outputs.js_to_retrain(p, q), 0, np.log(2))
    self.assert_in(outputs.zrf(p, q[None]), 0, 1)
    self.assert_in(outputs.activation_distance(p, q), 0, 2**0.5 + 1e-12)
    self.assertEqual(outputs.js_to_retrain(p, p), 0)

  @hypothesis.given(arrays())
  def test_of_confidence_features(self, pair):
    labels = np.zeros(len(pair[0]), int)
    features = population_mia.confidence_features(pair[0], labels)
    classes = pair[0].shape[1]
    self.assert_in(features[:, :2], 0, 1)
    self.assert_in(features[:, 2], 0, np.log(classes) + 1e-9)
    self.assert_in(features[:, 3], 0, np.inf)
    losses = population_mia.cross_entropy(pair[0], labels)
    self.assert_in(losses, 0, population_mia.MAX_LOSS)

  @hypothesis.given(arrays())
  def test_of_representations(self, pair):
    self.assert_in(representation.linear_cka(*pair), 0, 1)
    distance = representation.weight_distance({'a': pair[0]}, {'a': pair[1]})
    self.assert_in(distance.total, 0, np.inf)

  @hypothesis.given(worlds)
  def test_of_populations(self, pair):
    epsilon = forgetting_score.epsilon(*pair)
    self.assert_in(epsilon, 0, 50)
    self.assert_in(forgetting_score.forgetting_quality(*pair), 0, 1)
    np.testing.assert_allclose(
      epsilon, forgetting_score.epsilon(*pair[::-1]), atol=1e-9
    )
    self.assert_in(klom.klom(*pair), 0, np.log(1e5 + 1) + 0.01)
    for density in ('gaussian', 'kde'):
      found = ulira.ulira(*pair, density=density)
      self.assert_in(found.accuracy, 0, 1)
      self.assert_in(found.auc, 0, 1)
      self.assert_in(found.scores, -50, 50)

  @hypothesis.given(worlds)
  def test_populations_like_themselves_have_nothing_to_tell(self, pair):
    phi = pair[0]
    np.testing.assert_array_equal(forgetting_score.epsilon(phi, phi), 0)
    np.testing.assert_allclose(klom.klom(phi, phi), 0, atol=1e-3)

  @hypothesis.given(st.lists(SHARE, min_size=8, max_size=8), st.floats(0, 1e4))
  def test_of_scores(self, shares, seconds):
    u, r = (
      dict(zip(gaps.AVERAGED, values, strict=True))
      for values in (shares[:4], shares[4:])
    )
    self.assert_in(gaps.average_gap(u, r), 0, 1)
    self.assert_in(gaps.tug_of_war(u, r), 0, 1)
    self.assert_in(gaps.nomus(*shares[:2]), 0, 1)
    self.assert_in(gaps.mu_bench_score(*shares[:3], classes=10), 0, 1)
    score = gaps.adaptive_unlearning_score(*shares[:3], removes_classes=True)
    self.assert_in(score, 0, 2)
    models = [
      composite.Measured(f1, attack, time_s)
      for f1, attack, time_s in (
        (shares[0], shares[1], seconds),
        (shares[2], shares[3], 100.0),
        (shares[4], shares[5], 0.0),
      )
    ]
    self.assert_in(composite.gum(*models), 0, 1)
    self.assert_in(composite.cgum(*models, classes=10), 0, 1)
    self.assert_in(relearn.anamnesis_index(seconds, shares[0]), 0, np.inf)

  @hypothesis.given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
  def test_intervals_hold_the_mean(self, values):
    found = statistics.t_interval(np.array(values))
    if found.method == 't':
      slack = 1e-9 * (1 + abs(found.mean))
      self.assertLessEqual(found.low, found.mean + slack)
      self.assertGreaterEqual(found.high, found.mean - slack)

  @hypothesis.given(st.lists(SHARE, min_size=1, max_size=10))
  def test_adjusted_p_values(self, values):
    values = np.array(values)
    adjusted = statistics.holm(values)
    self.assert_in(adjusted, 0, 1)
    self.assertTrue((adjusted >= values).all())
    order = np.argsort(values)
    self.assertTrue((np.diff(adjusted[order]) >= 0).all())


if __name__ == '__main__':
  absltest.main()
