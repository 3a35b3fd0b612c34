"""Ranks of methods that are apart, alike, damaged or seen once."""

from absl.testing import absltest
import numpy as np

from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.ranking import rank

NAN = float('nan')


def make_card(method, values, verdict='under', seeds=None):
  values = tuple(map(float, values))
  mean = float(np.mean(values))
  return MetricCard(
    name='average_gap',
    version=1,
    value=mean,
    ci_low=NAN,
    ci_high=NAN,
    ci_method='none',
    n_seeds=len(values),
    n_examples=None,
    values=values,
    ideal=0.0,
    ideal_kind='theory',
    ideal_ci_low=NAN,
    ideal_ci_high=NAN,
    direction='lower',
    gap=mean,
    noise_floor=NAN,
    over_unlearned=None,
    collapsed=False,
    verdict=verdict,
    provenance={'method': method, 'seeds': seeds or list(range(len(values)))},
  )


class RankTest(absltest.TestCase):
  def test_only_what_is_apart_is_ranked(self):
    noise = np.random.default_rng(0).normal(scale=0.01, size=(3, 6))
    near, near_too, far = noise + np.array([[1.0], [1.001], [2.0]])
    got = rank(
      [make_card('far', far), make_card('a', near), make_card('b', near_too)]
    )
    self.assertEqual(list(got)[-1], 'far')
    self.assertEqual(got['a'], (1, 2))
    self.assertEqual(got['b'], (1, 2))
    self.assertEqual(got['far'], (3, 3))

  def test_pairs_are_of_the_same_seeds(self):
    # Unpaired the seeds' spread would hide a constant difference.
    spread = np.array([1.0, 5.0, 9.0])
    got = rank([make_card('a', spread), make_card('b', spread + 0.1)])
    self.assertEqual(got, {'a': (1, 1), 'b': (2, 2)})
    other = [3, 4, 5]
    got = rank(
      [make_card('a', spread), make_card('b', spread + 9, seeds=other)]
    )
    self.assertEqual(got, {'a': (1, 2), 'b': (1, 2)})

  def test_one_seed_separates_nothing(self):
    got = rank([make_card('a', [0.0]), make_card('b', [9.0])])
    self.assertEqual(got, {'a': (1, 2), 'b': (1, 2)})

  def test_references_and_damaged_models_get_no_rank(self):
    values = [1.0, 2.0]
    cards = [make_card(m, values) for m in ('original', 'retrain', 'a')]
    cards.append(make_card('b', [0.0, 0.1], verdict='damaged'))
    self.assertEqual(rank(cards), {'a': (1, 1)})
    self.assertEqual(rank([]), {})


if __name__ == '__main__':
  absltest.main()
