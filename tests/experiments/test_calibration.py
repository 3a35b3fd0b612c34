"""Options that are read off held-out recordings."""

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
from unlearn_jax.methods.confidence_matching import calibrate
from unlearn_jax.methods.confidence_matching import confidence_matching

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
    corpus=corpus, label=label, logits=lambda params, rows: logits[rows]
  )


def cell(unheard):
  rows = {'retain': np.arange(200), 'validation': np.asarray(unheard)}
  return types.SimpleNamespace(rows=rows)


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
  ('unheard', 'preset'),
  [
    (np.arange(200, 240), SPEC.preset),  # Too few.
    (np.arange(300, 400), SPEC.preset),  # Of another speaker.
    (
      np.arange(200, 300),
      dataclasses.replace(SPEC.preset, calibrate=False),
    ),
    (np.arange(200, 300), SPEC.class_preset),
    (np.arange(200, 300), SPEC.group_preset),
  ],
)
def test_the_preset_stays(task, unheard, preset):
  assert calibration.options(task, cell(unheard), NAME, preset, None) == (
    {},
    0.0,
  )


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
