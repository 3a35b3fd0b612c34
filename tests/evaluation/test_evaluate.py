"""Models from anywhere: a softmax regression, and what is refused of it."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems

from unlearn_jax.evaluation import internals
from unlearn_jax.evaluation import relearn as relearn_lib
from unlearn_jax.evaluation import representation
from unlearn_jax.evaluation.evaluate import evaluate

SIZES = {'forget': 40, 'retain': 300, 'test': 60}


def layers_fn(params, batch):
  return {'logits': problems.predict_fn(params, batch)}


def make_sets():
  sets = {}
  for i, (name, size) in enumerate(SIZES.items()):
    sets[name] = problems.make_examples(size, seed=i)
    sets[name]['speaker'] = np.array(['ann', 'bo', 'cy'])[np.arange(size) % 3]
  return sets


def call(**changes):
  arguments = {
    'predict_fn': problems.predict_fn,
    'models': {'mine': problems.make_params(3)},
    'sets': make_sets(),
    'retrained': [problems.make_params(1), problems.make_params(2)],
    'properties': ('speaker',),
    **changes,
  }
  first = [arguments.pop(name) for name in ('predict_fn', 'models', 'sets')]
  return evaluate(*first, **arguments)


def by_name(cards, method):
  return {c.name: c for c in cards if c.provenance['method'] == method}


class EvaluateTest(parameterized.TestCase):
  def test_any_model_is_scored(self):
    cards = call()
    methods = list(dict.fromkeys(c.provenance['method'] for c in cards))
    self.assertEqual(methods, ['retrain', 'mine'])
    batch = make_sets()['test']
    logits = problems.predict_fn(problems.make_params(3), batch)
    want = np.mean(logits.argmax(-1) == batch['label'])
    own = by_name(cards, 'mine')
    self.assertAlmostEqual(own['accuracy.test'].value, want)
    self.assertTrue(np.isnan(own['accuracy.validation'].value))
    self.assertNotIn('relearn.steps', own)
    self.assertNotIn('aus', own)  # Takes the original model.

  def test_everything_that_is_given_is_used(self):
    params = problems.make_params(3)
    before = jax.tree.map(np.array, params)
    cards = call(
      models={'mine': params},
      original=problems.make_params(0),
      costs={'mine': {'run_s': 2.0}, 'retrain': {'run_s': 8.0}},
      loss_fn=problems.loss_fn,
      init_fn=problems.init_fn,
      layers_fn=layers_fn,
    )
    own = by_name(cards, 'mine')
    for name in (
      'zrf',
      'aus',
      'relearn.steps',
      'relearn.anamnesis',
      'distance.weights',
      'cka.retrain.forget.logits',
      'cka.original.retain.logits',
      'cost.rte',
    ):
      self.assertTrue(np.isfinite(own[name].value), name)
    self.assertEqual(own['cost.rte'].value, 4.0)
    # Relearning fine-tunes a copy.
    jax.tree.map(np.testing.assert_array_equal, params, before)

  def test_sets_longer_than_a_batch(self):
    sets = make_sets()
    sets['retain'] = problems.make_examples(777, seed=5)
    sets['retain']['speaker'] = np.full(777, 'ann')
    card = by_name(call(sets=sets), 'mine')['accuracy.retain']
    logits = problems.predict_fn(problems.make_params(3), sets['retain'])
    want = np.mean(logits.argmax(-1) == sets['retain']['label'])
    self.assertAlmostEqual(card.value, want)

  @parameterized.named_parameters(
    ('no_retrain', {'retrained': []}, 'at least one model, got none'),
    ('name', {'models': {'retrain': 0}}, 'must not be named'),
  )
  def test_bad_models(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      call(**changes)

  def test_bad_sets(self):
    for change, message in (
      (lambda s: s.pop('test'), 'must be forget, retain, test'),
      (lambda s: s.update(forget=problems.make_examples(0)), 'not be empty'),
      (lambda s: s['test'].pop('label'), 'must hold a label'),
      (lambda s: s['test'].update(label=np.zeros(3, int)), 'of one length'),
      (
        lambda s: s['test'].update(label=np.full(60, 3)),
        r'labels of the test set must be in \[0, 3\), got 3 to 3',
      ),
    ):
      sets = make_sets()
      change(sets)
      with self.assertRaisesRegex(ValueError, message) as raised:
        call(sets=sets)
      self.assertNotIn('\n', str(raised.exception))

  def test_bad_logits(self):
    broken = problems.make_params(3)
    broken['bias'] = broken['bias'].at[0].set(jnp.nan)
    with self.assertRaisesRegex(ValueError, 'mine: logits on the forget set'):
      call(models={'mine': broken})
    with self.assertRaisesRegex(ValueError, r'must be \[batch, classes\]'):
      call(predict_fn=lambda p, b: problems.predict_fn(p, b)[0])


class RelearnTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.relearn = relearn_lib.make_relearn(
      problems.loss_fn, problems.predict_fn
    )
    self.forget = problems.make_examples(30)

  def test_worked_example(self):
    # EX23.
    self.assertAlmostEqual(relearn_lib.anamnesis_index(2, 5), 0.401198, 6)
    self.assertAlmostEqual(relearn_lib.anamnesis_index(0, 5), 0.001996, 6)
    self.assertEqual(relearn_lib.anamnesis_index(0, 0), 1.0)

  def test_starts_with_the_model_and_learns(self):
    params = problems.make_params()
    got = self.relearn(params, self.forget, steps=60, batch_size=10)
    batch = dict(self.forget, mask=jnp.ones(30))
    self.assertAlmostEqual(
      got.loss[0], float(problems.loss_fn(params, batch).mean()), places=5
    )
    self.assertLen(got.accuracy, 61)
    self.assertLess(got.loss[-1], got.loss[0])
    self.assertAlmostEqual(got.loss_area(), got.loss.mean())

  def test_equals_a_loop(self):
    params = problems.make_params()
    got = self.relearn(params, self.forget, steps=3, batch_size=30)
    tx = optax.adam(relearn_lib.LEARNING_RATE)
    state = tx.init(params)
    batch = dict(self.forget, mask=jnp.ones(30))
    for step in range(1, 4):
      grads = jax.grad(lambda p: problems.loss_fn(p, batch).mean())(params)
      updates, state = tx.update(grads, state)
      params = jax.tree.map(jnp.add, params, updates)
      want = float(problems.loss_fn(params, batch).mean())
      self.assertAlmostEqual(got.loss[step], want, places=5)

  def test_steps_to_a_bar(self):
    curve = relearn_lib.Relearning(np.array([0.1, 0.5, 0.9]), np.zeros(3))
    self.assertEqual(
      [curve.steps_to(b) for b in (0.1, 0.5, 0.6, 0.95)], [0, 1, 2, 2]
    )

  def test_bad_input(self):
    params = problems.make_params()
    with self.assertRaisesRegex(ValueError, 'must not be empty'):
      self.relearn(params, problems.make_examples(0))
    with self.assertRaisesRegex(ValueError, 'must be >= 1, got 0 and 50'):
      self.relearn(params, self.forget, steps=0)


class InternalsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    names = ('original', 0), ('retrain', 0), ('retrain', 1), ('mine', 0)
    self.models = {n: problems.make_params(i) for i, n in enumerate(names)}
    self.sets = make_sets()

  def layers(self, params, part):
    return jax.tree.map(np.asarray, layers_fn(params, self.sets[part]))

  def test_means_over_the_other_retrained_models(self):
    retrained = [('retrain', 0), ('retrain', 1)]
    got = internals.internals(self.models, retrained, self.layers)
    x = {n: self.layers(p, 'forget')['logits'] for n, p in self.models.items()}
    cka = [
      representation.linear_cka(x['mine', 0], x[name]) for name in retrained
    ]
    own = got['mine', 0]
    self.assertAlmostEqual(own['cka.retrain.forget.logits'], np.mean(cka))
    between = representation.linear_cka(x[retrained[0]], x[retrained[1]])
    for name in retrained:
      self.assertAlmostEqual(got[name]['cka.retrain.forget.logits'], between)
    self.assertEqual(got['original', 0]['cka.original.retain.logits'], 1.0)
    distance = representation.weight_distance(
      self.models['retrain', 0], self.models['retrain', 1]
    ).total
    self.assertEqual(got['retrain', 0]['distance.weights'], distance)

  def test_a_single_retrained_model_has_nothing_to_stand_beside(self):
    models = {n: p for n, p in self.models.items() if n[1] == 0}
    got = internals.internals(models, [('retrain', 0)], self.layers)
    self.assertNotIn('distance.weights', got['retrain', 0])
    self.assertNotIn('cka.retrain.forget.logits', got['retrain', 0])
    self.assertIn('cka.retrain.forget.logits', got['mine', 0])

  def test_without_an_original_there_are_no_steps(self):
    relearn = lambda _: relearn_lib.Relearning(np.ones(3), np.ones(3))  # noqa: E731
    models = {n: p for n, p in self.models.items() if n[0] != 'original'}
    got = internals.internals(models, [('retrain', 0)], None, relearn)
    self.assertEqual(
      set(got['mine', 0]), {'distance.weights', 'relearn.loss_area'}
    )


if __name__ == '__main__':
  absltest.main()
