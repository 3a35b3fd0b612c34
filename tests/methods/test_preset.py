"""Presets: bounds, overrides from the command line, and their errors."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.methods import choice
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import override
from unlearn_jax.methods.preset import Preset
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import InputError

PRESET = Preset(
  epochs=3, learning_rate=1e-3, options={'weight': 0.5, 'temperature': 2.0}
)


class PresetTest(parameterized.TestCase):
  @parameterized.parameters(
    ('epochs', -1, '>= 0'),
    ('learning_rate', -1e-3, '>= 0'),
    ('learning_rate', float('nan'), '>= 0'),
    ('weight_decay', -0.1, '>= 0'),
    ('clip_norm', 0.0, '> 0'),
    ('forget_epochs', -1, '>= 0'),
    ('epochs', float('inf'), '>= 0'),
    ('forget_batch', 0, '>= 1'),
    ('retain_batch', 0, '>= 1'),
    ('retain_fraction', 0.0, r'in \(0, 1\]'),
    ('retain_fraction', 1.5, r'in \(0, 1\]'),
    ('retain_fraction', float('nan'), r'in \(0, 1\]'),
  )
  def test_bounds(self, name, value, bound):
    message = f'^{name} must be {bound}, got {value}.$'
    with self.assertRaisesRegex(ValueError, message):
      dataclasses.replace(PRESET, **{name: value})

  @parameterized.parameters(
    ('epochs', 0),
    ('learning_rate', 0.0),
    ('forget_batch', 1),
    ('retain_batch', 1),
    ('retain_fraction', 1.0),
  )
  def test_bounds_themselves_are_allowed(self, name, value):
    preset = dataclasses.replace(PRESET, **{name: value})
    self.assertEqual(getattr(preset, name), value)

  @parameterized.parameters(
    ('algorithm', 'adam', "'adamw' or 'sgd', got 'adam'"),
    ('schedule', 'linear', "'constant' or 'cosine', got 'linear'"),
  )
  def test_choices(self, name, value, allowed):
    with self.assertRaisesRegex(ValueError, f'^{name} must be {allowed}.$'):
      dataclasses.replace(PRESET, **{name: value})

  def test_sgd_has_momentum_and_decays_weights(self):
    preset = dataclasses.replace(
      PRESET, algorithm='sgd', weight_decay=0.5, learning_rate=0.1
    )
    tx = preset.optimizer()
    params = {'w': jnp.asarray([1.0, -2.0])}
    state = tx.init(params)
    # Of norm 0.5 each, which is not clipped.
    gradient = {'w': jnp.asarray([0.3, -0.4])}
    step, state = tx.update(gradient, state, params)
    np.testing.assert_allclose(step['w'], [-0.08, 0.14], rtol=1e-6)
    step, _ = tx.update(gradient, state, params)  # 1.9 times the gradient.
    np.testing.assert_allclose(step['w'], [-0.107, 0.176], rtol=1e-6)

  def test_optimizer_is_adamw_after_clipping(self):
    preset = dataclasses.replace(PRESET, weight_decay=0.1, clip_norm=0.5)
    tx = preset.optimizer()
    params = {'w': jnp.asarray([1.0, -2.0])}
    # Of norm 10; clipped to 0.5, which Adam sees on its second step.
    gradients = ([6.0, 8.0], [0.06, -0.08])
    state, theta = tx.init(params), np.asarray([1.0, -2.0])
    m, v = np.zeros(2), np.zeros(2)
    for k, g in enumerate(gradients, start=1):
      updates, state = tx.update({'w': jnp.asarray(g)}, state, params)
      params = optax.apply_updates(params, updates)
      g = np.asarray(g) * min(1.0, 0.5 / np.linalg.norm(g))
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
      step = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
      theta = theta - 1e-3 * (step + 0.1 * theta)
      np.testing.assert_allclose(params['w'], theta, rtol=1e-6)

  @parameterized.product(
    algorithm=('adamw', 'sgd'), schedule=('constant', 'cosine')
  )
  def test_the_searched_optimizer_is_each_of_them(self, algorithm, schedule):
    preset = dataclasses.replace(
      PRESET, algorithm=algorithm, schedule=schedule, weight_decay=0.1
    )
    # Built of another, and told by its state alone which to be.
    other = dataclasses.replace(PRESET, weight_decay=0.1).searched_optimizer()
    params, both = {'w': jnp.asarray([1.0, -2.0])}, []
    for tx in (preset.optimizer(), other):
      state = set_total_steps(tx.init(params), 8)
      if tx is other:
        state = optax.tree_utils.tree_set(
          state,
          is_sgd=jnp.float32(algorithm == 'sgd'),
          is_cosine=jnp.float32(schedule == 'cosine'),
        )
      theta = params
      for k in range(6):
        gradient = {'w': jnp.asarray([0.3 * k, 1.0 - 0.5 * k])}
        updates, state = tx.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
      both.append(theta['w'])
    np.testing.assert_allclose(both[1], both[0], rtol=1e-6)
    self.assertGreater(np.abs(both[0] - params['w']).max(), 1e-4)

  def test_learning_rate_lives_in_the_state(self):
    tx = PRESET.optimizer()
    params = {'w': jnp.ones(2)}
    state = optax.tree_utils.tree_set(tx.init(params), learning_rate=0.25)
    updates, _ = tx.update({'w': jnp.full(2, 0.1)}, state, params)
    np.testing.assert_allclose(updates['w'], [-0.25, -0.25], rtol=1e-5)


class OverrideTest(parameterized.TestCase):
  @parameterized.parameters(
    ('learning_rate', '1e-4', 1e-4),
    ('epochs', '7', 7),
    ('retain_fraction', '1', 1),
    ('forget_epochs', '2', 2),
    ('epochs', '1e1', 10),
  )
  def test_changes_one_field(self, field, text, value):
    got = override(PRESET, field, text, f'--preset=scrub.{field}={text}')
    self.assertEqual(got, dataclasses.replace(PRESET, **{field: value}))

  def test_changes_one_option_of_a_copy(self):
    got = override(PRESET, 'temperature', '4.5', 'scrub.temperature=4.5')
    self.assertEqual(got.options, {'weight': 0.5, 'temperature': 4.5})
    self.assertEqual(dataclasses.replace(got, options=PRESET.options), PRESET)
    self.assertEqual(PRESET.options['temperature'], 2.0)

  def test_what_is_given_by_hand_is_not_calibrated(self):
    preset = registry.spec('confidence_matching').preset
    self.assertTrue(preset.calibrate)
    for field, want in (('slope', False), ('loss_weight', True)):
      text = f'--preset=confidence_matching.{field}=2'
      got = override(preset, field, '2', text)
      self.assertEqual(got.options[field], 2.0)
      self.assertEqual(got.calibrate, want)

  @parameterized.parameters('speed', 'options', '')
  def test_unknown_field(self, field):
    text = f'--preset=scrub.{field}=1'
    allowed = (
      'algorithm, calibrate, clip_norm, epochs, forget_batch, forget_epochs, '
    )
    allowed += 'learning_rate, '
    allowed += 'retain_batch, retain_fraction, schedule, temperature, weight, '
    allowed += 'weight_decay'
    message = f"^{text}: '{field}' is none of {allowed}.$"
    with self.assertRaisesRegex(InputError, message):
      override(PRESET, field, '1', text)

  @parameterized.product(
    field=('learning_rate', 'temperature'),
    value=('fast', '', '"1"', 'true', 'null', '[1]', '1e-4x'),
  )
  def test_value_that_is_no_number(self, field, value):
    text = f'--preset=scrub.{field}={value}'
    with self.assertRaises(InputError) as caught:
      override(PRESET, field, value, text)
    want = f'{text}: the value must be a number.'
    self.assertEqual(str(caught.exception), want)

  @parameterized.product(
    field=('epochs', 'forget_batch', 'forget_epochs'),
    value=('1.5', '-1', 'NaN', 'Infinity'),
  )
  def test_count_that_is_not_whole(self, field, value):
    text = f'--preset=scrub.{field}={value}'
    with self.assertRaises(InputError) as caught:
      override(PRESET, field, value, text)
    want = f'{text}: the value must be a whole number, at least 0.'
    self.assertEqual(str(caught.exception), want)

  @parameterized.parameters(
    ('learning_rate', '-1'), ('retain_fraction', '0'), ('forget_batch', '0')
  )
  def test_value_outside_of_its_bounds(self, field, value):
    text = f'--preset=scrub.{field}={value}'
    message = f'^{text}: {field} must be .*, got {value}'
    with self.assertRaisesRegex(InputError, message):
      override(PRESET, field, value, f'--preset=scrub.{field}={value}')


class ParseTest(parameterized.TestCase):
  def test_all_is_every_row_and_the_reference_first(self):
    self.assertEqual(choice.parse('all'), tuple(registry.METHODS))
    self.assertEqual(choice.parse('all')[0], 'retrain')

  @parameterized.parameters(
    ('scrub', ('retrain', 'scrub')),
    (' scrub , fine_tune,', ('retrain', 'scrub', 'fine_tune')),
    ('scrub,retrain', ('retrain', 'scrub')),
    ('scrub,scrub', ('retrain', 'scrub')),
  )
  def test_reference_comes_first_and_each_once(self, text, want):
    self.assertEqual(choice.parse(text), want)

  def test_unknown_name(self):
    with self.assertRaises(InputError) as caught:
      choice.parse('scrub,scrap')
    want = (
      f"--methods: 'scrap' is none of {', '.join(registry.METHODS)}, or all; a "
      'wrapper may stand before it, as in rewind:npo: saliency, superloss, '
      'lora, last_k, head, rewind.'
    )
    self.assertEqual(str(caught.exception), want)

  @parameterized.parameters('wrap:scrub', 'lora:scrap', 'lora:', ':scrub')
  def test_unknown_wrapper_or_what_it_wraps(self, name):
    with self.assertRaisesRegex(InputError, f"--methods: '{name}' is none of"):
      choice.parse(name)

  def test_retraining_cannot_be_wrapped(self):
    with self.assertRaisesRegex(InputError, 'retrain cannot be wrapped'):
      choice.parse('lora:retrain')

  def test_superloss_needs_losses(self):
    with self.assertRaisesRegex(InputError, 'superloss has no effect on'):
      choice.parse('superloss:delete')

  def test_wrappers_nest(self):
    name = 'lora:superloss:scrub'
    self.assertEqual(choice.parse(name), ('retrain', name))
    got = choice.presets((name,), (f'{name}.rank=4', f'{name}.epochs=2'))[name]
    self.assertEqual(
      (got.options['rank'], got.options['regularisation'], got.epochs),
      (4, 10.0, 2),
    )

  def test_the_method_of_other_settings_runs_too(self):
    name = 'lora:scrub[rank=4;epochs=2]'
    self.assertEqual(choice.parse(name), ('retrain', 'lora:scrub', name))
    got = choice.presets(choice.parse(name), ('lora:scrub.rank=3',))
    self.assertEqual(got['lora:scrub'].options['rank'], 3)
    want = dataclasses.replace(
      got['lora:scrub'],
      epochs=2,
      options={**got['lora:scrub'].options, 'rank': 4},
    )
    self.assertEqual(got[name], want)

  @parameterized.parameters(
    ('scrub[speed=1]', "'speed' is none of algorithm, "),
    ('scrub[epochs=-1]', 'must be a whole number'),
    ('scrub[temperature=0]', 'temperature must be > 0, got 0'),
    ('scrub[epochs]', 'must be method.field=value;field=value.'),
    ('scrub[epochs=1', 'must be method.field=value;field=value.'),
    ('scrub[]', 'must be method.field=value;field=value.'),
    ('retrain[epochs=1]', 'retrain has no settings'),
    ('scrap[epochs=1]', "'scrap' is none of retrain, "),
  )
  def test_other_settings_that_do_not_fit(self, name, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      choice.presets(choice.parse(name))
    self.assertNotIn('\n', str(caught.exception))

  def test_rules_for_classes(self):
    rules = {n for n, row in registry.METHODS.items() if row.for_classes}
    self.assertIn('unsir', rules)
    names = choice.parse('all', with_class_rules=False)
    self.assertEqual(set(names), set(registry.METHODS) - rules)
    for name in ('unsir', 'lora:unsir'):
      with self.assertRaises(InputError) as caught:
        choice.parse(f'scrub,{name}', with_class_rules=False)
      self.assertEqual(
        str(caught.exception),
        f'--methods: {name!r} is for requests that remove whole classes, and '
        'this one removes none.',
      )

  @parameterized.parameters('', ' ', ',,')
  def test_no_name(self, text):
    with self.assertRaises(InputError) as caught:
      choice.parse(text)
    want = f'--methods={text!r}: must be all or a comma list.'
    self.assertEqual(str(caught.exception), want)


class PresetsTest(parameterized.TestCase):
  def test_rows_without_a_preset_are_left_out(self):
    got = choice.presets(choice.parse('all'))
    self.assertEqual(list(got), [n for n in registry.METHODS if n != 'retrain'])
    for name, preset in got.items():
      self.assertEqual(preset, registry.METHODS[name].preset)

  def test_overrides_add_up_and_the_last_wins(self):
    got = choice.presets(
      ('scrub', 'salun'),
      (
        'scrub.epochs=2',
        'scrub.temperature=3',
        'salun.fraction=0.25',
        'scrub.epochs=4',
      ),
    )
    scrub = registry.METHODS['scrub'].preset
    options = {**scrub.options, 'temperature': 3}
    self.assertEqual(
      got['scrub'], dataclasses.replace(scrub, epochs=4, options=options)
    )
    self.assertEqual(got['salun'].options['fraction'], 0.25)
    self.assertEqual(
      scrub.epochs, registry.METHODS['scrub_rewind'].preset.epochs
    )

  @parameterized.parameters(
    'scrub', 'scrub.epochs', 'scrub=3', 'epochs=3', '', '=', 'scrub:epochs=3'
  )
  def test_malformed(self, text):
    with self.assertRaises(InputError) as caught:
      choice.presets(('scrub',), (text,))
    want = f'--preset={text}: must be method.field=value.'
    self.assertEqual(str(caught.exception), want)

  @parameterized.parameters('retrain', 'scrap', '')
  def test_name_without_a_preset(self, name):
    text = f'{name}.epochs=3'
    with self.assertRaises(InputError) as caught:
      choice.presets(('retrain', 'scrub'), (text,))
    rows = ', '.join(n for n in registry.METHODS if n != 'retrain')
    want = f'--preset={text}: {name!r} is none of {rows}.'
    self.assertEqual(str(caught.exception), want)

  @parameterized.parameters(
    ('salun.fraction=2', r'fraction must be in \[0, 1\], got 2.0'),
    ('scrub.temperature=0', 'temperature must be > 0, got 0.0'),
    ('neg_grad_plus.retain_weight=NaN', r'retain_weight must be in \[0, 1\]'),
    ('bad_teacher.direction=up', "direction must be 'teacher_student' or"),
    ('bad_teacher.uniform_teacher=1', 'the value must be true or false'),
  )
  def test_option_outside_of_its_bounds(self, text, problem):
    with self.assertRaisesRegex(InputError, f'^--preset={text}: {problem}'):
      choice.presets(('scrub',), (text,))

  def test_options_of_other_types(self):
    texts = (
      'bad_teacher.direction=student_teacher',
      'bad_teacher.uniform_teacher=true',
      'gradient_ascent.max_loss=inf',
    )
    got = choice.presets(('bad_teacher', 'gradient_ascent'), texts)
    options = got['bad_teacher'].options
    self.assertEqual(options['direction'], 'student_teacher')
    self.assertIs(options['uniform_teacher'], True)
    self.assertEqual(got['gradient_ascent'].options['max_loss'], np.inf)

  def test_requests_that_remove_classes_have_presets_of_their_own(self):
    for name, spec in registry.METHODS.items():
      got = choice.presets((name,), scope='class').get(name)
      self.assertEqual(got, spec.class_preset or spec.preset)
      got = choice.presets((name,), scope='group').get(name)
      self.assertEqual(got, spec.group_preset or spec.preset)

  def test_override_of_a_method_that_is_not_run_is_checked_alone(self):
    got = choice.presets(('fine_tune',), ('scrub.epochs=9',))
    self.assertEqual(got, {'fine_tune': registry.METHODS['fine_tune'].preset})
    with self.assertRaisesRegex(InputError, "^--preset=scrub.age=9: 'age' is"):
      choice.presets(('fine_tune',), ('scrub.age=9',))

  def test_presets_come_in_the_order_of_the_names(self):
    names = ('scrub', 'retrain', 'fine_tune')
    self.assertEqual(list(choice.presets(names)), ['scrub', 'fine_tune'])


if __name__ == '__main__':
  absltest.main()
