"""What a search of settings may know."""

from absl.testing import absltest
import numpy as np

from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import measure
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.evaluation.validation import validation_values


class ValidationTest(absltest.TestCase):
  def test_is_what_is_measured_with_validation_as_test_data(self):
    rng = np.random.default_rng(0)
    sizes = {'forget': 30, 'retain': 80, 'validation': 50}
    labels = {n: rng.integers(0, 4, k) for n, k in sizes.items()}
    logits = {n: rng.normal(size=(k, 4)) for n, k in sizes.items()}
    for name in ('forget', 'retain'):  # What it was trained on.
      logits[name][np.arange(sizes[name]), labels[name]] += 2
    names = ('a', 'b', 'c', 'd')
    for gone in ((), (2,)):
      got = validation_values(logits, Subsets(labels, names, gone))
      with_test = [{**x, 'test': x['validation']} for x in (logits, labels)]
      want = measure.measure(
        Outcome('npo', 0, 0, with_test[0], {}, {}),
        Subsets(with_test[1], names, gone),
      ).values
      self.assertCountEqual(got, gaps.AVERAGED)
      for name in gaps.AVERAGED:
        self.assertAlmostEqual(got[name], want[name], places=12, msg=name)

  def test_an_empty_set_is_not_a_number(self):
    labels = {'forget': np.zeros(0, int), 'retain': np.zeros(3, int)}
    labels['validation'] = np.zeros(3, int)
    logits = {n: np.ones((len(x), 2)) for n, x in labels.items()}
    got = validation_values(logits, Subsets(labels, ('a', 'b')))
    self.assertTrue(np.isnan(got['accuracy.forget']))
    self.assertTrue(np.isnan(got['mia.loss_threshold.auc']))


if __name__ == '__main__':
  absltest.main()
