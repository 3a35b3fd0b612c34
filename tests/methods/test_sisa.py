"""SISA: deleting equals never having had, bit for bit."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods import sisa
from unlearn_jax.training import loop
from unlearn_jax.training.step import descend

COUNT, GROUPS = 60, 12
EXAMPLES = P.make_examples(COUNT)
ROWS = np.arange(COUNT)
SPEAKER = ROWS % GROUPS
CONFIG = sisa.SisaConfig(epochs=2, batch_size=7, seed=3)
KEY = jax.random.key(0)
METHOD = descend(P.loss_fn, P.sgd(0.1, momentum=0.9))


def make_plan(shards=3, slices=2, groups=SPEAKER):
  return sisa.make_plan(ROWS, groups, shards=shards, slices=slices, seed=1)


def train(plan):
  return sisa.train(METHOD, P.init_fn, EXAMPLES, plan, CONFIG, KEY)


def forget(model, rows):
  return sisa.forget(METHOD, EXAMPLES, model, rows, CONFIG, KEY)


class PlanTest(parameterized.TestCase):
  def test_a_speaker_lies_in_one_shard_and_slice(self):
    plan = make_plan()
    for speaker in range(GROUPS):
      places = {
        (s, r)
        for s, r in zip(
          plan.shard[SPEAKER == speaker],
          plan.part[SPEAKER == speaker],
          strict=True,
        )
      }
      self.assertLen(places, 1)
    counts = [
      ((plan.shard == s) & (plan.part == r)).sum()
      for s in range(3)
      for r in range(2)
    ]
    self.assertEqual(set(counts), {COUNT // 6})

  def test_stages_grow(self):
    plan = make_plan()
    first, second = plan.stage(1, 0), plan.stage(1, 1)
    self.assertContainsSubset(first, second)
    np.testing.assert_array_equal(second, ROWS[plan.shard == 1])

  def test_without_leaves_the_others_where_they_are(self):
    plan = make_plan()
    less = plan.without(np.array([4, 9]))
    keep = ~np.isin(ROWS, [4, 9])
    np.testing.assert_array_equal(less.shard, plan.shard[keep])
    np.testing.assert_array_equal(less.part, plan.part[keep])

  @parameterized.parameters(
    ({'shards': 0}, r'shards must be in \[1, 12\], got 0'),
    ({'shards': 13}, r'shards must be in \[1, 12\], got 13'),
    ({'slices': 0}, 'slices must be >= 1, got 0'),
  )
  def test_bounds(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      make_plan(**options)


class SisaTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = train(make_plan())

  def test_forgetting_is_exact(self):
    for rows in (np.array([5]), ROWS[SPEAKER == 2], np.array([0, 1, 2, 30])):
      got = forget(self.model, rows)
      want = train(make_plan().without(rows))
      P.assert_identical(got.stages, want.stages)
      self.assertLess(got.examples_seen, want.examples_seen)
      self.assertTrue(P.differ(got.params(), self.model.params()))

  def test_untouched_shards_and_stages_are_kept(self):
    plan, row = self.model.plan, 5
    s, r = plan.shard[row], plan.part[row]
    got = forget(self.model, np.array([row]))
    for other in set(range(3)) - {s}:
      P.assert_identical(got.stages[other], self.model.stages[other])
    P.assert_identical(got.stages[s][: r + 1], self.model.stages[s][: r + 1])
    self.assertTrue(P.differ(got.stages[s][r + 1], self.model.stages[s][r + 1]))

  def test_a_speaker_touches_one_shard(self):
    got = forget(self.model, ROWS[SPEAKER == 7])
    changed = [
      s for s in range(3) if P.differ(got.stages[s], self.model.stages[s])
    ]
    self.assertLen(changed, 1)

  def test_nothing_to_forget(self):
    got = forget(self.model, np.array([], int))
    P.assert_identical(got.stages, self.model.stages)
    self.assertEqual(got.examples_seen, 0)

  def test_one_shard_and_slice_is_retraining(self):
    plan = make_plan(shards=1, slices=1)
    rows = np.array([3, 8])
    got = forget(train(plan), rows).params()[0]
    shard_key = jax.random.fold_in(KEY, 0)
    state = loop.init(
      METHOD, P.init_fn(shard_key), jax.random.fold_in(shard_key, 0)
    )
    for epoch in range(CONFIG.epochs):
      rng = np.random.default_rng([CONFIG.seed, 0, 0, epoch])
      order = batches.one_pass(np.setdiff1d(ROWS, rows), 7, rng)
      state, _ = loop.run(METHOD, state, None, order, EXAMPLES)
    P.assert_close(got, state.params, rtol=1e-6)

  def test_the_answer_is_the_mean_probability(self):
    got = sisa.log_probabilities(P.predict_fn, self.model, EXAMPLES)
    each = [
      np.exp(P.twin_log_softmax(P.twin_logits(P.as_float64(p), EXAMPLES)))
      for p in self.model.params()
    ]
    np.testing.assert_allclose(np.exp(got), np.mean(each, 0), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(got).sum(1), 1.0, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
