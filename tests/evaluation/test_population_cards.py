"""Populations that are known to be alike, or to differ on one side."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax.evaluation import population_cards as lib
from unlearn_jax.evaluation import worlds as worlds_lib
from unlearn_jax.evaluation.metric_card import MetricCard

MODELS, EXAMPLES = 48, 60


def population(seed=0, shift=0.0):
  """A half design whose members are surer by `shift` of what they saw."""
  rng = np.random.default_rng(seed)
  seen = rng.random((MODELS // 2, EXAMPLES)) < 0.5
  seen = np.concatenate([seen, ~seen])
  phi = rng.normal(size=(MODELS, EXAMPLES)) + rng.normal(size=EXAMPLES)
  return phi + shift * seen, seen


def call(shift, **options):
  phi, seen = population(shift=shift)
  worlds = lib.Worlds(phi, seen, phi, ~seen)
  cards, found = lib.population_cards(
    worlds,
    (phi, ~seen),
    provenance={'method': 'mine'},
    **options,
  )
  return {card.name: card for card in cards}, found


class PopulationCardsTest(parameterized.TestCase):
  def test_alike(self):
    cards, found = call(0.0)
    for card in cards.values():
      if card.verdict != 'no reference':  # Rates of few pairs.
        self.assertEqual(card.verdict, 'matches', card.name)
        self.assertFalse(card.over_unlearned)
    self.assertAlmostEqual(cards['ulira.accuracy'].value, 0.5, delta=0.03)
    self.assertAlmostEqual(cards['ulira.auc'].value, found.auc)

  def test_remembered(self):
    cards, _ = call(2.0)
    for name in ('ulira.accuracy', 'klom.mean', 'forgetting_score'):
      self.assertEqual(cards[name].verdict, 'under', name)
      self.assertFalse(cards[name].over_unlearned)
    self.assertAlmostEqual(cards['confidence_gap'].value, 2.0, delta=0.1)
    self.assertEqual(cards['confidence_gap'].verdict, 'under')
    # The ideal is of models alike, whatever the method does.
    self.assertAlmostEqual(cards['ulira.accuracy'].ideal, 0.5, delta=0.03)
    self.assertLess(cards['forgetting_score'].ideal, 0.9)

  def test_forgotten_too_much_is_visible_too(self):
    cards, _ = call(-2.0)
    for name in ('ulira.accuracy', 'klom.mean', 'forgetting_score'):
      self.assertEqual(cards[name].verdict, 'over', name)
      self.assertTrue(cards[name].over_unlearned)
    self.assertEqual(cards['confidence_gap'].verdict, 'over')

  def test_damage_wins(self):
    good, bad = np.full(MODELS, 0.9), np.full(MODELS, 0.3)
    pairs = {'accuracy.retain': (bad, good), 'accuracy.test': (bad, good)}
    cards, _ = call(0.0, utility=pairs)
    self.assertEqual(cards['ulira.accuracy'].verdict, 'damaged')
    final = cards['forgetting_score.final'].value
    self.assertAlmostEqual(final, cards['forgetting_score'].value / 9)
    cards, _ = call(0.0, collapsed=True)
    self.assertTrue(cards['klom.mean'].collapsed)
    self.assertEqual(cards['klom.mean'].verdict, 'damaged')

  def test_repeats_itself_and_survives_its_file(self):
    cards, again = call(1.0)[0], call(1.0)[0]
    for name, card in cards.items():
      self.assertEqual(card.to_json(), again[name].to_json())
      read = MetricCard.from_json(card.to_json())
      self.assertEqual(read.to_json(), card.to_json())

  def test_draws_are_of_models_that_count(self):
    phi, seen = population()
    rng = np.random.default_rng(0)
    marked = np.where(seen, 1.0, 0.0)
    columns = np.arange(0, EXAMPLES, 3)
    got = worlds_lib.draw(marked, seen, 5, columns, rng)
    self.assertEqual(got.shape, (5, len(columns)))
    self.assertEqual(got.min(), 1.0)
    halves = worlds_lib.split(phi, ~seen, rng)
    self.assertFalse((halves.in_u & halves.in_r).any())
    np.testing.assert_array_equal(halves.in_u | halves.in_r, ~seen)
    difference = halves.in_u.sum(0) - halves.in_r.sum(0)
    self.assertLessEqual(np.abs(difference).max(), 1)

  def test_populations_too_small(self):
    phi, seen = population()
    few = np.r_[:6, 24:30]
    worlds = lib.Worlds(phi[few], seen[few], phi[few], ~seen[few])
    with self.assertRaisesRegex(ValueError, 'needs 8 models that never saw'):
      lib.population_cards(
        worlds, (phi[few], ~seen[few]), provenance={'method': 'x'}
      )


if __name__ == '__main__':
  absltest.main()
