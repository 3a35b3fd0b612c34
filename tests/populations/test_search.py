"""A search tries what it says that it tries, with the same budget for all."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import problems as P

from unlearn_jax.methods import registry
from unlearn_jax.populations import search_plan
from unlearn_jax.populations.search import mean
from unlearn_jax.populations.search import Search
from unlearn_jax.populations.search import search
from unlearn_jax.populations.search import Trial
from unlearn_jax.training import loop
from unlearn_jax.training.fit import steps_of
from unlearn_jax.training.recipe import set_total_steps

ROWS = np.arange(6), np.arange(6, 40)
EXAMPLES = P.make_examples(40)
PROBLEM = P.make_problem(blocks=('kernel', 'bias'))
SEED = 5


def score_fn(params):
  """Tells any two models apart."""
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])
  return {'gap': float(flat @ np.cos(np.arange(len(flat))))}


def preset_of(name):
  preset = registry.spec(name).preset
  return dataclasses.replace(preset, forget_batch=3, retain_batch=10)


def run_search(name, settings=12):
  return search(
    name,
    registry.spec(name),
    PROBLEM,
    preset_of(name),
    P.make_params(),
    ROWS,
    EXAMPLES,
    score_fn,
    settings=settings,
    seed=SEED,
  )


def run_alone(name, preset):
  """The run of one setting, as a job would make it."""
  row = registry.spec(name)
  method = row.build(PROBLEM, preset.optimizer(), **preset.options)
  state = loop.init(method, P.make_params(), jax.random.key(SEED))
  made = [
    row.epoch_batches(preset, *ROWS, epoch=epoch, seed=(SEED,))
    for epoch in range(preset.epochs)
  ]
  examples = sum(int(b.mask.sum()) for s in made for b in s if b is not None)
  state = set_total_steps(state, sum(map(steps_of, made)))
  if method.prepare is not None:
    once = row.prepare_batches(preset, *ROWS)
    examples += sum(int(b.mask.sum()) for b in once if b is not None)
    state = loop.prepare(method, state, *once, EXAMPLES)
  for sides in made:
    state, _ = loop.run(method, state, *sides, EXAMPLES)
  return score_fn(state.params), examples


class SearchTest(parameterized.TestCase):
  # Rules with steps, one that edits, one whose penalty has a schedule, one
  # with a schedule in its preset, and one that alternates.
  @parameterized.parameters('npo', 'ssd', 'l1_sparse', 'eu_k', 'scrub')
  def test_each_trial_is_the_run_of_its_setting(self, name):
    found = run_search(name)
    self.assertLen(found.trials, 12)
    presets = [repr(trial.preset) for trial in found.trials]
    self.assertLen(set(presets), 12)
    self.assertIn(repr(preset_of(name)), presets)
    for trial in found.trials[::3] + found.trials[-1:]:
      values, examples = run_alone(name, trial.preset)
      self.assertAlmostEqual(
        trial.values['gap'],
        values['gap'],
        delta=1e-4 * (1 + abs(values['gap'])),
      )
      self.assertEqual(trial.examples, examples)

  def test_what_the_preset_leaves_out_is_searched(self):
    name = 'confidence_matching'
    row = registry.spec(name)
    preset = dataclasses.replace(
      row.group_preset, forget_batch=3, retain_batch=10
    )
    self.assertEqual(preset.options['distill_weight'], 0)
    trials = search(
      name,
      row,
      PROBLEM,
      preset,
      P.make_params(),
      ROWS,
      EXAMPLES,
      score_fn,
      settings=4,
      seed=SEED,
    ).trials
    for trial in trials:
      values, _ = run_alone(name, trial.preset)
      self.assertAlmostEqual(
        trial.values['gap'],
        values['gap'],
        delta=1e-4 * (1 + abs(values['gap'])),
      )
    weights = [trial.preset.options['distill_weight'] for trial in trials]
    self.assertEqual(weights[0], 0)
    self.assertGreater(min(weights[1:]), 0.5)

  def test_tries_lengths_algorithms_and_schedules(self):
    presets = [trial.preset for trial in run_search('npo', 60).trials]
    self.assertLen(presets, 60)
    at = search_plan.visits(preset_of('npo'))
    self.assertEqual(at, (2, 3, 4, 5))
    for name, values in (
      ('epochs', set(at)),
      ('algorithm', {'adamw', 'sgd'}),
      ('schedule', {'constant', 'cosine'}),
    ):
      self.assertEqual({getattr(p, name) for p in presets}, values)
    scheduled = [p for p in presets if p.schedule == 'cosine']
    self.assertLen(scheduled, 16)

  def test_visits(self):
    for epochs, want in (
      (0, ()),
      (1, (1,)),
      (2, (1, 2)),
      (20, (5, 10, 15, 20)),
    ):
      preset = dataclasses.replace(preset_of('npo'), epochs=epochs)
      self.assertEqual(search_plan.visits(preset), want)

  def test_a_bad_number_of_settings(self):
    with self.assertRaisesRegex(ValueError, 'settings must be >= 1, got 0.'):
      run_search('npo', 0)


class BestTest(absltest.TestCase):
  def test_the_preset_stays_where_none_is_known_to_be_better(self):
    preset = preset_of('npo')
    gaps = [0.3, float('nan'), 0.1, 0.1, 0.2]
    trials = [
      Trial(dataclasses.replace(preset, epochs=i), {'gap': gap}, 100 * i)
      for i, gap in enumerate(gaps)
    ]
    found = Search(trials, 0.0, 0.0, 0.0)
    self.assertIs(found.best('gap'), trials[2])
    for i, floor, want in ((0, 0.29, 2), (0, 0.3, 0), (1, 1.0, 2), (4, 0.2, 4)):
      best = found.best('gap', preset=trials[i].preset, floor=floor)
      self.assertIs(best, trials[want])
    with self.assertRaisesRegex(ValueError, '^no trial has gap.$'):
      Search(trials[1:2], 0.0, 0.0, 0.0).best('gap')

  def test_mean_of_searches(self):
    presets = [dataclasses.replace(preset_of('npo'), epochs=n) for n in (1, 2)]
    gaps = ((0.1, 0.5), (0.3, 0.2))
    several = [
      Search(
        [
          Trial(preset, {'gap': gap}, 100 + i)
          for preset, gap in zip(presets, own, strict=True)
        ],
        *(1.0, 2.0, 3.0 + i),
      )
      for i, own in enumerate(gaps)
    ]
    found = mean(several)
    np.testing.assert_allclose(
      [trial.values['gap'] for trial in found.trials], [0.2, 0.35]
    )
    self.assertEqual([trial.preset for trial in found.trials], presets)
    self.assertEqual((found.compile_s, found.run_s, found.score_s), (2, 4, 7))
    self.assertIs(found.best('gap'), found.trials[0])  # Not of each by itself.
    other = Search(several[1].trials[::-1], 0.0, 0.0, 0.0)
    with self.assertRaisesRegex(ValueError, 'of the same settings, got others'):
      mean([several[0], other])


if __name__ == '__main__':
  absltest.main()
