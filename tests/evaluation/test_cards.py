"""Metric cards: the file format, and a comparison by hand."""

import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
import scipy.special

from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.evaluation import outputs
from unlearn_jax.evaluation.cards import make_cards
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.metrics import LAYER_METRICS
from unlearn_jax.evaluation.metrics import metric
from unlearn_jax.evaluation.metrics import METRICS
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.types import InputError

CLASSES = 4
SIZES = {'forget': 8, 'retain': 40, 'validation': 8, 'test': 20}


def make_subsets(seed=0, forgotten=()):
  rng = np.random.default_rng(seed)
  labels = {
    k: rng.permutation(np.arange(n) % CLASSES) for k, n in SIZES.items()
  }
  if forgotten:
    labels['forget'] = np.full(SIZES['forget'], forgotten[0])
    labels['retain'] %= CLASSES - 1
  return Subsets(labels, tuple('abcd'), forgotten, f'hash{seed}')


def make_outcome(method, seed, subsets, wrong, replicate=0, run_s=10.0):
  """The first `wrong[name]` predictions of each set are off by one class."""
  logits = {}
  for name, labels in subsets.labels.items():
    predictions = labels.copy()
    predictions[: wrong.get(name, 0)] += 1
    logits[name] = (
      5.0 * np.eye(CLASSES, dtype=np.float32)[predictions % CLASSES]
    )
  cost = {'run_s': run_s, 'compile_s': 1.0}
  return Outcome(method, seed, replicate, logits, {}, cost)


def full_example():
  """Original, two retrained and one unlearned model, with all there can be."""
  rng = np.random.default_rng(0)
  sizes = {'forget': 100, 'retain': 40, 'validation': 8, 'test': 200}
  labels = {k: np.arange(n) % CLASSES for k, n in sizes.items()}
  labels['forget'] %= 2
  labels['retain'] = 2 + labels['retain'] % 2
  subsets = Subsets(
    labels,
    tuple('abcd'),
    (0, 1),
    untrained=rng.normal(size=(3, sizes['forget'], CLASSES)),
  )
  outcomes = []
  for method, replicate, steps in (
    ('original', 0, 0.0),
    ('retrain', 0, 5.0),
    ('retrain', 1, 5.0),
    ('close', 0, 2.0),
  ):
    logits = {
      name: rng.normal(size=(len(y), CLASSES)) + 2 * np.eye(CLASSES)[y]
      for name, y in labels.items()
    }
    inner = {f'{name}.Conv': 0.5 for name in LAYER_METRICS}
    inner |= {
      'distance.weights': 1.0,
      'relearn.steps': steps,
      'relearn.loss_area': 1.0,
    }
    inner |= {name: 0.5 for name in METRICS if name.startswith('leakage.')}
    names = 'run_s', 'compile_s', 'peak_bytes', 'optimizer_steps', 'examples'
    cost = dict.fromkeys(names, 1.0)
    outcomes.append(Outcome(method, 0, replicate, logits, {}, cost, inner))
  return outcomes, {0: subsets}


def by_name(cards, method):
  return {c.name: c for c in cards if c.provenance['method'] == method}


class MakeCardsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.subsets = {seed: make_subsets(seed) for seed in (0, 1)}
    outcomes = []
    for seed, subsets in self.subsets.items():

      def add(method, wrong, replicate=0, run_s=10.0, seed=seed, of=subsets):
        outcomes.append(make_outcome(method, seed, of, wrong, replicate, run_s))

      add('original', {'test': 1})
      add('retrain', {'forget': 2, 'test': 2 + seed}, run_s=20.0)
      add('retrain', {'forget': 4, 'test': 2 + seed}, 1, run_s=40.0)
      add('close', {'forget': 3, 'test': 2}, run_s=1.0)
      add('broken', {name: size for name, size in SIZES.items()})
    self.outcomes = outcomes
    self.cards = make_cards(outcomes, self.subsets, {'close': {'forget': 'x'}})

  def test_ideal_is_the_mean_of_retraining(self):
    card = by_name(self.cards, 'close')['accuracy.test']
    np.testing.assert_allclose(card.values, [0.9, 0.9])
    self.assertAlmostEqual(card.value, 0.9)
    self.assertAlmostEqual(card.ideal, (0.9 + 0.85) / 2)
    self.assertAlmostEqual(card.gap, 0.025)
    self.assertEqual((card.ideal_kind, card.ci_method), ('retrain', 't'))
    self.assertEqual(card.n_examples, SIZES['test'])
    self.assertEqual(card.noise_floor, 0.0)
    self.assertEqual(card.verdict, 'matches')

  def test_noise_floor_is_between_replicates(self):
    card = by_name(self.cards, 'close')['accuracy.forget']
    self.assertAlmostEqual(card.noise_floor, 2 / SIZES['forget'])
    self.assertAlmostEqual(card.ideal, 1 - 3 / 8)
    self.assertEqual((card.verdict, card.over_unlearned), ('matches', False))

  def test_average_gap(self):
    card = by_name(self.cards, 'close')['average_gap']
    gaps = [
      np.mean(
        [
          abs(cards['close'][name] - cards['retrain'][name])
          for name in (
            'accuracy.forget',
            'accuracy.retain',
            'accuracy.test',
            'mia.loss_threshold.auc',
          )
        ]
      )
      for cards in (
        {
          method: {
            name: card.values[seed]
            for name, card in by_name(self.cards, method).items()
          }
          for method in ('close', 'retrain')
        }
        for seed in (0, 1)
      )
    ]
    np.testing.assert_allclose(card.values, gaps)
    self.assertEqual((card.ideal, card.ideal_kind), (0.0, 'theory'))
    retrain = by_name(self.cards, 'retrain')['average_gap']
    self.assertGreaterEqual(retrain.value, 2 / 8 / 4)  # Of forget accuracy.
    # One pair a seed.
    floor = np.percentile(retrain.values, 95)
    self.assertAlmostEqual(retrain.noise_floor, floor)

  def test_broken_model_is_damaged_everywhere(self):
    for card in by_name(self.cards, 'broken').values():
      self.assertTrue(card.collapsed)
      known = not math.isnan(card.ideal) and not math.isnan(card.value)
      if metric(card.name).is_pairwise:
        known &= not math.isnan(card.noise_floor)
      want = 'damaged' if known else 'no reference'
      self.assertEqual(card.verdict, want, card.name)

  def test_cost_is_relative_to_retraining(self):
    cards = by_name(self.cards, 'close')
    self.assertAlmostEqual(cards['cost.rte'].value, 30.0)
    self.assertAlmostEqual(cards['cost.run_s'].value, 1.0)
    self.assertAlmostEqual(by_name(self.cards, 'retrain')['cost.rte'].value, 1)
    self.assertNotIn('cost.rte', by_name(self.cards, 'original'))

  def test_provenance(self):
    card = by_name(self.cards, 'close')['accuracy.test']
    self.assertEqual(
      card.provenance,
      {
        'method': 'close',
        'seeds': [0, 1],
        'forget_hashes': ['hash0', 'hash1'],
        'forget': 'x',
      },
    )

  def test_without_retraining_there_is_no_verdict(self):
    rest = [o for o in self.outcomes if o.method != 'retrain']
    for card in make_cards(rest, self.subsets):
      self.assertEqual(card.verdict, 'no reference', card.name)
      self.assertEqual(card.ideal_kind, 'none', card.name)
    self.assertNotIn(
      'average_gap', by_name(make_cards(rest, self.subsets), 'close')
    )

  def test_one_seed_has_binomial_intervals(self):
    one = [o for o in self.outcomes if o.seed == 0]
    cards = by_name(make_cards(one, self.subsets), 'close')
    self.assertEqual(cards['accuracy.test'].ci_method, 'wilson')
    self.assertEqual(cards['macro_f1.test'].ci_method, 'none')
    self.assertIn('one seed', cards['accuracy.test'].notes)

  def test_forgotten_class_is_no_utility(self):
    subsets = {0: make_subsets(0, forgotten=(3,))}
    labels = subsets[0].labels['test']
    is_forgotten = labels == 3
    outcomes = [
      make_outcome('retrain', 0, subsets[0], {}),
      make_outcome('never', 0, subsets[0], {}),
    ]
    outcomes[1].logits['test'][is_forgotten] = np.eye(CLASSES)[0]
    cards = by_name(make_cards(outcomes, subsets), 'never')
    self.assertEqual(cards['accuracy.test'].value, 1.0)
    self.assertEqual(cards['accuracy.test'].n_examples, (~is_forgotten).sum())
    self.assertEqual(cards['accuracy.test_forgotten'].value, 0.0)
    self.assertEqual(cards['accuracy.test_forgotten'].verdict, 'over')

  def test_every_metric_is_measured(self):
    outcomes, subsets = full_example()
    cards = by_name(make_cards(outcomes, subsets), 'close')
    layers = [f'{name}.Conv' for name in LAYER_METRICS]
    self.assertEqual(set(cards), {*METRICS, *layers})
    few = 'mia.loss_threshold.tpr_at_1e2', 'mia.loss_threshold.tpr_at_1e3'
    for name, card in cards.items():
      self.assertEqual(math.isnan(card.value), name in few, name)

  def test_distances_are_of_pairs_of_runs(self):
    outcomes, subsets = full_example()
    cards = by_name(make_cards(outcomes, subsets), 'close')

    def p(outcome):
      return scipy.special.softmax(outcome.logits['forget'], -1)

    first, second, close = (
      next(o for o in outcomes if (o.method, o.replicate) == name)
      for name in (('retrain', 0), ('retrain', 1), ('close', 0))
    )
    want = {
      'distance.js': outputs.js_to_retrain,
      'distance.activation': outputs.activation_distance,
    }
    for name, distance in want.items():
      pairs = [distance(p(close), p(r)) for r in (first, second)]
      self.assertAlmostEqual(cards[name].value, np.mean(pairs))
      self.assertAlmostEqual(cards[name].ideal, distance(p(first), p(second)))
      # One pair is no yardstick.
      self.assertTrue(math.isnan(cards[name].noise_floor))
      self.assertEqual(cards[name].verdict, 'no reference')

  def test_published_scores_are_of_the_same_accuracies(self):
    outcomes, subsets = full_example()
    cards = make_cards(outcomes, subsets)
    own, original = by_name(cards, 'close'), by_name(cards, 'original')
    forget, test, before = (
      card.value
      for card in (
        own['accuracy.forget'],
        own['accuracy.test'],
        original['accuracy.test'],
      )
    )
    self.assertAlmostEqual(own['aus'].value, (1 - before + test) / (1 + forget))
    self.assertAlmostEqual(
      own['aus'].ideal, by_name(cards, 'retrain')['aus'].value
    )
    self.assertEqual(own['gum'].ideal_kind, 'none')

  def test_anamnesis_is_of_steps(self):
    outcomes, subsets = full_example()
    cards = make_cards(outcomes, subsets)
    card = by_name(cards, 'close')['relearn.anamnesis']
    self.assertAlmostEqual(card.value, 2.01 / 5.01)  # EX23.
    self.assertEqual((card.ideal, card.verdict), (1.0, 'under'))
    self.assertNotIn('not reached', str(card.notes))
    never = dataclasses.replace(
      outcomes[-1], inner={**outcomes[-1].inner, 'relearn.steps': 100.0}
    )
    cards = make_cards([*outcomes[:-1], never], subsets)
    notes = by_name(cards, 'close')['relearn.steps'].notes
    self.assertIn('not reached within 100 steps', notes)
    self.assertEqual(by_name(cards, 'retrain')['relearn.anamnesis'].value, 1.0)

  def test_non_members_are_matched_in_class_and_speaker(self):
    # Losses depend on the speaker alone, so a matched attack finds nothing.
    labels = {name: np.zeros(n, int) for name, n in SIZES.items()}
    speaker = {name: np.arange(n) % 2 for name, n in SIZES.items()}
    speaker['forget'][:] = 0
    logits = {
      name: np.stack([3.0 * (1 - s), np.zeros(len(s))], 1)
      for name, s in speaker.items()
    }
    outcome = Outcome('retrain', 0, 0, logits, {}, {})
    found = {}
    for properties in ({}, {'speaker': speaker}):
      subsets = Subsets(labels, ('a', 'b'), properties=properties)
      card = by_name(make_cards([outcome], {0: subsets}), 'retrain')
      found[len(properties)] = card['mia.loss_threshold.auc'].value
    self.assertGreater(found[0], 0.6)
    self.assertEqual(found[1], 0.5)

  def test_what_does_not_fit_is_refused(self):
    outcome = self.outcomes[0]
    logits = dict(outcome.logits, test=outcome.logits['test'][1:])
    short = dataclasses.replace(outcome, logits=logits)
    with self.assertRaisesRegex(ValueError, r'test set must be \[20, classes'):
      make_cards([short], self.subsets)
    labels = dict(self.subsets[0].labels)
    labels['retain'] = labels['retain'] + 1
    subsets = dataclasses.replace(self.subsets[0], labels=labels)
    with self.assertRaisesRegex(ValueError, r'in \[0, 4\), got 1 to 4'):
      make_cards([outcome], {0: subsets})

  def test_losses_that_were_clipped_are_noted(self):
    outcome = self.outcomes[0]
    logits = dict(outcome.logits, forget=np.full((8, CLASSES), np.nan))
    broken = dataclasses.replace(outcome, logits=logits)
    cards = by_name(make_cards([broken], self.subsets), 'original')
    note = '8 losses clipped at 10000'
    self.assertIn(note, cards['mia.paper_loss'].notes)
    self.assertNotIn(note, cards['accuracy.forget'].notes)

  def test_cards_survive_their_file(self):
    for card in self.cards:
      line = card.to_json()
      self.assertNotIn('\n', line)
      again = MetricCard.from_json(line)
      self.assertEqual(repr(again), repr(card))
    with self.assertRaisesRegex(ValueError, 'not a metric card'):
      MetricCard.from_json('{"name": "x"}')

  def test_undefined_values_are_counted(self):
    empty = dataclasses.replace(
      self.subsets[0],
      labels={**self.subsets[0].labels, 'forget': np.array([], int)},
    )
    outcome = make_outcome('retrain', 0, empty, {})
    card = by_name(make_cards([outcome], {0: empty}), 'retrain')[
      'accuracy.forget'
    ]
    self.assertTrue(math.isnan(card.value))
    self.assertEqual((card.n_seeds, card.verdict), (0, 'no reference'))
    self.assertIn('undefined for 1 of 1 seeds', card.notes)


def test_outcome_survives_its_file(tmp_path):
  outcome = make_outcome('scrub', 3, make_subsets(), {'test': 2}, 1)
  outcome = dataclasses.replace(outcome, curves={'forget': np.arange(3.0)})
  path = tmp_path / 'outcome.npz'
  outcomes.save(outcome, path)
  again = outcomes.load(path)
  assert (again.method, again.seed, again.replicate) == ('scrub', 3, 1)
  assert again.cost == outcome.cost
  for name, logits in outcome.logits.items():
    np.testing.assert_array_equal(again.logits[name], logits)
  np.testing.assert_array_equal(again.curves['forget'], np.arange(3.0))
  assert [p.name for p in tmp_path.iterdir()] == ['outcome.npz']


def test_damaged_outcome_is_named(tmp_path):
  path = tmp_path / 'outcome.npz'
  path.write_bytes(b'PK nonsense')
  with pytest.raises(InputError, match='outcome.npz: must be the outcome'):
    outcomes.load(path)


if __name__ == '__main__':
  absltest.main()
