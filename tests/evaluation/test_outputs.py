"""Distances of outputs, weights and representations: worked examples."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.evaluation import outputs
from unlearn_jax.evaluation import representation

P, Q = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
ONE, OTHER = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])


def random_pair(seed):
  rng = np.random.default_rng(seed)
  logits = rng.normal(scale=10, size=(2, 20, 1 + seed))
  return outputs.probabilities(logits)


class OutputsTest(parameterized.TestCase):
  def test_worked_example(self):
    # The mean over all elements would divide this by the number of classes.
    self.assertAlmostEqual(outputs.js_to_retrain(P, Q), 0.368064, places=6)
    self.assertAlmostEqual(outputs.zrf(P, Q[None]), 0.468996, places=6)
    self.assertAlmostEqual(
      outputs.activation_distance(P, Q), 1.131371, places=6
    )

  def test_opposite_certainties(self):
    self.assertAlmostEqual(outputs.js_to_retrain(ONE, OTHER), np.log(2))
    self.assertAlmostEqual(outputs.zrf(ONE, OTHER[None]), 0.0)
    self.assertAlmostEqual(outputs.activation_distance(ONE, OTHER), 2**0.5)

  def test_zrf_is_the_mean_over_random_networks(self):
    both = outputs.zrf(ONE, np.stack([ONE, OTHER]))
    self.assertAlmostEqual(both, 0.5)

  @parameterized.parameters(*range(1, 8))
  def test_ranges_and_symmetry(self, seed):
    p, q = random_pair(seed)
    found = outputs.jensen_shannon(p, q)
    np.testing.assert_allclose(found, outputs.jensen_shannon(q, p), atol=1e-15)
    np.testing.assert_array_equal(outputs.jensen_shannon(p, p), 0)
    self.assertBetween(found.min(), 0, np.log(2))
    self.assertBetween(found.max(), 0, np.log(2))
    self.assertBetween(outputs.zrf(p, q[None]), 0, 1)
    self.assertBetween(outputs.activation_distance(p, q), 0, 2**0.5)

  def test_no_examples(self):
    none = np.zeros((0, 3))
    for value in (
      outputs.js_to_retrain(none, none),
      outputs.activation_distance(none, none),
      outputs.zrf(none, none[None]),
    ):
      self.assertTrue(np.isnan(value))

  def test_shapes(self):
    with self.assertRaisesRegex(ValueError, 'shapes must be the same'):
      outputs.js_to_retrain(P, np.zeros((2, 2)))
    with self.assertRaisesRegex(ValueError, 'p_bad must be'):
      outputs.zrf(P, np.full((3, 9, 2), 0.5))


class WeightDistanceTest(absltest.TestCase):
  def test_worked_example(self):
    first = {'a': np.array([1.0, 2.0]), 'b': {'c': np.array([[0.0, 2.0]])}}
    zeros = {'a': np.zeros(2), 'b': {'c': np.zeros((1, 2))}}
    found = representation.weight_distance(first, zeros)
    self.assertEqual(set(found.by_leaf), {'a', 'b/c'})
    self.assertAlmostEqual(found.total, 3.0)
    self.assertAlmostEqual(found.by_leaf['a'], 5**0.5)
    retrained = representation.weight_distance(
      {'a': np.array([3.0, 4.0])}, {'a': np.zeros(2)}
    )
    self.assertAlmostEqual(found.total / retrained.total, 0.6)

  def test_shapes(self):
    with self.assertRaisesRegex(ValueError, 'same structure and shapes'):
      representation.weight_distance({'a': np.ones(2)}, {'a': np.ones(3)})


class CkaTest(parameterized.TestCase):
  def test_worked_example(self):
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[1, 0], [2, 1], [3, 0.0]])
    self.assertAlmostEqual(representation.linear_cka(x, y), 0.948683, places=6)
    self.assertAlmostEqual(representation.linear_cka(x, 3 * x + 7), 1.0)

  @parameterized.parameters(*range(5))
  def test_range_and_invariances(self, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    found = representation.linear_cka(x, y)
    self.assertBetween(found, 0, 1)
    self.assertAlmostEqual(found, representation.linear_cka(y, x))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    turned = representation.linear_cka(2 * x @ rotation + 1, y)
    self.assertAlmostEqual(found, turned)

  def test_constant_or_empty(self):
    x = np.arange(6.0).reshape(3, 2)
    for constant in (1.0, 0.1):  # The mean of the second is not exact.
      same = np.full((3, 2), constant)
      self.assertTrue(np.isnan(representation.linear_cka(x, same)))
      self.assertTrue(np.isnan(representation.linear_cka(same, same)))
    self.assertTrue(np.isnan(representation.linear_cka(x[:0], x[:0])))

  def test_examples_differ(self):
    with self.assertRaisesRegex(ValueError, 'of the same examples'):
      representation.linear_cka(np.ones((3, 2)), np.ones((4, 2)))


if __name__ == '__main__':
  absltest.main()
