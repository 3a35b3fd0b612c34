"""Options that are read off recordings that models never heard."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P
import pytest

from experiments import calibration
from experiments import course
from unlearn_jax.methods import registry
from unlearn_jax.methods.confidence_line import calibrate
from unlearn_jax.methods.confidence_matching import confidence_matching
from unlearn_jax.populations import train

NAME = 'confidence_matching'
SPEC = registry.spec(NAME)
SIZE = 400


@pytest.fixture
def task():
  """Logits whose confidences are known; the last speaker is in no training."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(SIZE, 2))
  label = rng.integers(0, 2, SIZE)
  corpus = types.SimpleNamespace(
    speaker=np.repeat([0, 1, 0, 2], SIZE // 4), keyword=np.zeros(SIZE, int)
  )
  return types.SimpleNamespace(
    corpus=corpus,
    label=label,
    logits=lambda params, rows: logits[rows],
    training=types.SimpleNamespace(task='kws'),
  )


def cell(unheard, request='sample:5%'):
  rows = {'retain': np.arange(200), 'validation': np.asarray(unheard)}
  return types.SimpleNamespace(rows=rows, request=request)


def reference(task, forget, request, models=2):
  """A search whose retrained models say logits of their own."""
  rng = np.random.default_rng(int(forget[0]))
  retrained = [
    types.SimpleNamespace(logits={'forget': rng.normal(size=(len(forget), 2))})
    for _ in range(models)
  ]
  rows = {'forget': forget, 'retain': forget, 'validation': forget[:0]}
  forgets = types.SimpleNamespace(rows=rows, request=request)
  return calibration.Reference(forgets, retrained)


def confidence(task, rows):
  """Of two classes: the difference of their logits."""
  logits, label = task.logits(None, rows), task.label[rows]
  own = np.take_along_axis(logits, label[:, None], 1)[:, 0]
  return 2 * own - logits.sum(1)


def test_of_held_out_recordings_of_the_same_speakers(task):
  # Rows from 300 on are of a speaker that was in no training.
  got, seconds = calibration.options(
    task, cell(np.arange(200, 400)), NAME, SPEC.preset, None
  )
  want = calibrate(
    confidence(task, np.arange(200)), confidence(task, np.arange(200, 300))
  )
  np.testing.assert_allclose([got['slope'], got['offset']], want, rtol=1e-4)
  assert seconds > 0


@pytest.mark.parametrize(
  ('cell', 'preset'),
  [
    (cell(np.arange(200, 240)), SPEC.preset),  # Too few.
    (cell(np.arange(300, 400)), SPEC.preset),  # Of another speaker.
    (
      cell(np.arange(200, 300)),
      dataclasses.replace(SPEC.preset, calibrate=False),
    ),
    (cell(np.arange(200, 300), 'keyword:up'), SPEC.class_preset),
    (cell(np.arange(200, 300), 'speaker:a'), SPEC.group_preset),
  ],
)
def test_the_preset_stays(task, cell, preset):
  found = calibration.options(task, cell, NAME, preset, None)
  assert found == ({}, 0.0)


def test_of_retrained_models_of_a_search(task):
  """For a speaker; all that several forget sets and models say counts alike."""
  references = [
    reference(task, rows, 'speaker:a')
    for rows in (np.arange(50), np.arange(60, 90))
  ]
  found, _ = calibration.of_search(
    task, references, NAME, SPEC.group_preset, None
  )
  heard, unheard = [], []
  for one in references:
    rows = one.cell.rows['forget']
    for model in one.retrained:
      z, y = model.logits['forget'], task.label[rows]
      unheard.append(z[np.arange(len(y)), y] - z[np.arange(len(y)), 1 - y])
      heard.append(confidence(task, rows))
  want = calibrate(np.concatenate(heard), np.concatenate(unheard))
  np.testing.assert_allclose([found['slope'], found['offset']], want, rtol=1e-4)


def test_a_search_allows_for_what_a_run_changes(task, monkeypatch):
  """The line is that of what counts as much less as the held-out lost."""
  # Speaker 1 is forgotten; of those held out the first 20 are its own.
  forget, validation = np.arange(100, 160), np.arange(180, 260)
  own = np.arange(80), task.label[validation]
  retrained = []
  for change in (0.2, 0.4):
    logits = {'forget': task.logits(None, forget)}
    logits['validation'] = task.logits(None, validation).copy()
    logits['validation'][own] += change
    logits['validation'][:20] = 9.0
    retrained.append(types.SimpleNamespace(logits=logits))
  rows = {'forget': forget, 'retain': np.arange(100), 'validation': validation}
  cell = types.SimpleNamespace(rows=rows, request='speaker:1', seed=7)
  built, batches = [], []

  def unlearn_population(
    rule, params, member_batches, seeds, examples, *, epochs, **_
  ):
    """What the parameters say falls by their value."""
    del rule, examples
    assert epochs == SPEC.group_preset.epochs
    batches.append(member_batches(0, 0))
    return {'fall': params['fall'] + np.array([0.5 + 0.1 * seeds[0]])}

  def logits(params, rows):
    said = task.logits(params, rows).copy()
    said[np.arange(len(rows)), task.label[rows]] -= params['fall']
    return said

  def build(problem, tx, **options):
    built.append(options)

  monkeypatch.setattr(train, 'unlearn_population', unlearn_population)
  monkeypatch.setattr(calibration, '_PILOTS', 3)
  monkeypatch.setattr(
    registry, 'spec', lambda _: dataclasses.replace(SPEC, build=build)
  )
  model = types.SimpleNamespace(
    **{**vars(task), 'logits': logits}, problem=None, examples=None
  )
  found, seconds = calibration.of_search(
    model,
    [calibration.Reference(cell, retrained)],
    NAME,
    SPEC.group_preset,
    {'fall': np.zeros(())},
  )
  # Of the forget set retrained models say what the original model says.
  np.testing.assert_allclose(built[0]['slope'], 1.0, rtol=1e-4)
  np.testing.assert_allclose(built[0]['offset'], 0.0, atol=1e-4)
  np.testing.assert_allclose(found['slope'], 1.0, rtol=1e-4)
  # Three pilots fell by 0.6 in the mean; retrained models rose by 0.3.
  np.testing.assert_allclose(found['offset'], -0.6 - 0.3, rtol=1e-4)
  assert len({b.rows.tobytes() for b, _ in batches}) == 3
  assert seconds > 0


def test_settings_that_an_earlier_version_found(task):
  """They lack an option; what the rule takes in its place counts."""
  held_out = cell(np.arange(200, 300))
  options = {k: v for k, v in SPEC.preset.options.items() if k != 'line'}
  old = dataclasses.replace(SPEC.preset, options=options)
  got, _ = calibration.options(task, held_out, NAME, old, None)
  assert got == calibration.options(task, held_out, NAME, SPEC.preset, None)[0]


def test_of_retrained_models_of_a_class(task):
  """The slope stays; means agree."""
  one = reference(task, np.arange(50), 'keyword:up')
  preset = dataclasses.replace(
    SPEC.class_preset, options={**SPEC.class_preset.options, 'slope': 0.8}
  )
  found, _ = calibration.of_search(task, [one], NAME, preset, None)
  y, z = task.label[:50], task.logits(None, np.arange(50))
  other = z[np.arange(50), 1 - y] - z.mean(1)
  said = np.concatenate([model.logits['forget'] for model in one.retrained])
  own, y = np.arange(100), np.tile(y, 2)
  mean = np.mean(said[own, y] - said[own, 1 - y])
  assert set(found) == {'offset'}
  np.testing.assert_allclose(mean, found['offset'] - 0.8 * other.mean(), 1e-4)


def test_a_search_of_single_recordings_reads_the_held_out(task):
  held_out = cell(np.arange(200, 300))
  one = calibration.Reference(held_out, [])
  got, _ = calibration.of_search(task, [one], NAME, SPEC.preset, None)
  want, _ = calibration.options(task, held_out, NAME, SPEC.preset, None)
  assert got == want != {}


def test_of_members_of_a_population(task):
  """What some heard, and others, of other recordings, never did."""
  rng = np.random.default_rng(0)
  trained, others = rng.normal(size=(2, 6, 40, 2)) * [[[[1]]], [[[2]]]]
  others, label = others[:3], task.label[:40]
  seen, never = rng.random((6, 40)) < 0.5, rng.random((3, 40)) < 0.3
  own = np.where(label == 1, 1, -1)
  want = calibrate(
    ((trained[..., 1] - trained[..., 0]) * own)[seen],
    ((others[..., 1] - others[..., 0]) * own)[never],
  )
  for name, preset in (
    (NAME, SPEC.preset),
    (NAME, dataclasses.replace(SPEC.preset, calibrate=False)),
    ('npo', dataclasses.replace(registry.spec('npo').preset, calibrate=True)),
  ):
    found = calibration.of_members(
      name, preset, (trained, seen), (others, never), label
    )
    if name == NAME and preset.calibrate:
      np.testing.assert_allclose([*found.values()], want, rtol=1e-4)
    else:
      assert found == {}
  trained[:] = np.nan
  got = calibration.of_members(
    NAME, SPEC.preset, (trained, seen), (others, never), label
  )
  assert got == {}


@pytest.mark.parametrize(
  ('name', 'calibrate'), [(NAME, False), ('npo', True), ('npo', False)]
)
def test_a_search_leaves_the_preset(task, name, calibrate):
  one = reference(task, np.arange(50), 'speaker:a')
  preset = dataclasses.replace(
    registry.spec(name).group_preset or registry.spec(name).preset,
    calibrate=calibrate,
  )
  found = calibration.of_search(task, [one], name, preset, None)
  assert found == ({}, 0.0)


def test_other_methods_read_nothing(task):
  preset = dataclasses.replace(registry.spec('npo').preset, calibrate=True)
  found = calibration.options(task, cell(range(200, 300)), 'npo', preset, None)
  assert found == ({}, 0.0)


def test_only_scalars_of_the_rule_change():
  """Not a weight that has the name of one."""
  method = confidence_matching(P.loss_fn, P.predict_fn, optax.adam(0.1))
  params = {**P.make_params(), 'offset': jnp.ones(3)}
  state = method.init(params, jax.random.key(0))
  got = course.with_options(state, {'slope': 1.4, 'offset': -2.5})
  assert float(got.hyper['slope']) == np.float32(1.4)
  assert float(got.hyper['offset']) == -2.5
  P.assert_identical(got.frozen, state.frozen)
  rest = {k: v for k, v in state.hyper.items() if k not in ('slope', 'offset')}
  for name, value in rest.items():
    assert got.hyper[name] == value
