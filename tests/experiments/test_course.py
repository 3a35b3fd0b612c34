"""The batches of a run."""

import types

import numpy as np
import optax
import problems as P
import pytest

from experiments import course
from experiments.cells import Run
from unlearn_jax.methods import registry

LENGTHS = np.random.default_rng(0).integers(1, 1_000, 300)


@pytest.mark.parametrize('method', ['retrain', 'gradient_ascent', 'scrub'])
def test_of_similar_length_where_that_is_asked(method):
  spec = registry.spec(method)
  made = {}
  for in_buckets in (False, True):
    task = types.SimpleNamespace(
      data=types.SimpleNamespace(in_buckets=in_buckets, input_name='waveform'),
      examples={'waveform': types.SimpleNamespace(lengths=LENGTHS)},
      recipe=types.SimpleNamespace(
        batch_size=32, epochs=2, steps=lambda examples: 2
      ),
      classifier=types.SimpleNamespace(init_fn=lambda key: P.make_params()),
    )
    rows = {'forget': np.arange(100), 'retain': np.arange(100, 300)}
    made[in_buckets] = course.of_run(
      task,
      spec.build(P.make_problem(), optax.sgd(0.1)),
      spec.preset,
      types.SimpleNamespace(rows=rows),
      Run(method, 0),
      P.make_params(),
    )
  for epoch in range(2):
    mixed, similar = (made[which].batches(epoch) for which in (False, True))
    for a, b in zip(mixed, similar, strict=True):
      assert (a is None) == (b is None)
      if a is not None:
        same = [np.sort(side.rows[side.mask > 0]) for side in (a, b)]
        np.testing.assert_array_equal(*same)
        assert spread(b) < 0.6 * spread(a)
    again = made[True].batches(epoch)
    P.assert_identical(again, similar)


def spread(side):
  """Returns the sum over steps of the longest less the shortest."""
  real = [rows[mask > 0] for rows, mask in zip(*side, strict=True)]
  return sum(np.ptp(LENGTHS[rows]) for rows in real if len(rows))
