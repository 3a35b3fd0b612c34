"""The sum of clipped gradients: twin, table of cases, sensitivity."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.per_example.clipping import clipped_sum

NAN, INF = float('nan'), float('inf')


@functools.partial(jax.jit, static_argnames=('fun', 'microbatch'))
def traced(params, batch, max_norm, fun=P.loss_fn, microbatch=None):
  return clipped_sum(fun, max_norm, microbatch=microbatch)(params, batch)


def one_batch(size, padding=0, seed=1):
  return P.step_of(P.make_batches(seed, 1, size, padding), 0)


def twin(params, batch, max_norm):
  """The sum in float64, row by row."""
  params, batch = P.as_float64(params), P.real_rows(batch)
  total = jax.tree.map(np.zeros_like, params)
  for i in range(len(batch['mask'])):
    row = {name: x[i : i + 1] for name, x in batch.items()}
    gradient = P.twin_loss_gradient(params, row)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
    total = P.add((1.0, total), (min(1.0, max_norm / norm), gradient))
  return total


def given(params, batch):
  """A function whose gradients are what the batch holds, of two leaves."""
  return batch['a'] * params['a'] + batch['b'] @ params['b']


def sum_of(a, b, max_norm, mask=None, microbatch=None, dtype=jnp.float32):
  """Clips examples with gradients (a [n], b [n, 2])."""
  params = {'a': jnp.ones((), dtype), 'b': jnp.ones(2, dtype)}
  a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
  mask = jnp.ones(len(a)) if mask is None else jnp.asarray(mask)
  batch = {'a': a, 'b': b, 'mask': mask}
  got = traced(params, batch, max_norm, fun=given, microbatch=microbatch)
  return np.asarray([got['a'], *got['b']], np.float64)


class TwinTest(parameterized.TestCase):
  @parameterized.product(
    size_and_padding=((1, 0), (7, 2), (12, 0)), microbatch=(None, 1, 3, 7, 50)
  )
  def test_equals_twin(self, size_and_padding, microbatch):
    params, batch = P.make_params(), one_batch(*size_and_padding)
    for max_norm in (0.3, 1.5, INF):
      got = traced(params, batch, max_norm, microbatch=microbatch)
      P.assert_close(got, twin(params, batch, max_norm))

  def test_the_bounds_split_the_examples(self):
    """So the test above clips some and not others."""
    params, batch = P.make_params(), one_batch(12)
    free = twin(params, batch, INF)
    for max_norm in (0.3, 1.5):
      got = twin(params, batch, max_norm)
      self.assertTrue(P.differ(got, free))
      scaled = P.add((max_norm / 0.3, twin(params, batch, 0.3)))
      if max_norm > 0.3:
        self.assertGreater(np.abs(got['bias'] - scaled['bias']).max(), 0.01)

  def test_many_bounds_at_once_equal_each_alone(self):
    params, batch = P.make_params(), one_batch(7, 2)
    bounds = jnp.asarray([0.0, 0.3, INF])
    many = jax.vmap(lambda c: traced(params, batch, c))(bounds)
    for k, max_norm in enumerate((0.0, 0.3, INF)):
      P.assert_close(P.step_of(many, k), twin(params, batch, max_norm))

  def test_without_a_trace(self):
    params, batch = P.make_params(), one_batch(7, 2)
    got = clipped_sum(P.loss_fn, 0.3, microbatch=3)(params, batch)
    P.assert_close(got, twin(params, batch, 0.3))


class TableTest(parameterized.TestCase):
  """The rows of the table in the docstring of `clipped_sum`."""

  @parameterized.parameters(3.0, 3.5, 1e30)
  def test_norm_at_most_c_is_unchanged(self, max_norm):
    got = sum_of([1.0], [[2.0, -2.0]], max_norm)
    np.testing.assert_array_equal(got, [1.0, 2.0, -2.0])

  @parameterized.parameters(1.5, 1e-3, 1e-20)
  def test_norm_above_c_is_scaled_to_norm_c(self, max_norm):
    got = sum_of([1.0], [[2.0, -2.0]], max_norm)
    want = np.asarray([1.0, 2.0, -2.0]) * max_norm / 3
    np.testing.assert_allclose(got, want, rtol=1e-6)

  def test_the_norm_is_over_the_whole_tree(self):
    # Each leaf alone would be within the bound.
    got = sum_of([3.0], [[4.0, 0.0]], 4.0)
    np.testing.assert_allclose(got, [2.4, 3.2, 0.0], rtol=1e-6)

  @parameterized.parameters(0.0, 1e-20, 1.0, INF)
  def test_gradient_zero_adds_zero(self, max_norm):
    got = sum_of([0.0], [[0.0, 0.0]], max_norm)
    np.testing.assert_array_equal(got, np.zeros(3))

  @parameterized.parameters(1.0, 1e-15, 1e15)
  def test_c_zero_adds_zero(self, size):
    got = sum_of([size], [[size, -size]], 0.0)
    np.testing.assert_array_equal(got, np.zeros(3))

  @parameterized.parameters(1.0, 1e-30, 1e15)
  def test_c_infinite_leaves_the_gradient_unchanged(self, size):
    got = sum_of([size], [[size, -size]], INF)
    np.testing.assert_array_equal(got, np.float32([size, size, -size]))

  @parameterized.parameters(-1.0, NAN, -INF)
  def test_c_negative_or_not_a_number(self, max_norm):
    message = f'max_norm must be >= 0, got {max_norm}'
    for value in (max_norm, np.float32(max_norm), jnp.asarray(max_norm)):
      with self.assertRaisesRegex(ValueError, message):
        clipped_sum(P.loss_fn, value)
    got = sum_of([1.0, 0.0], [[2.0, 3.0], [0.0, 0.0]], max_norm)
    self.assertTrue(np.isnan(got).all())

  @parameterized.product(value=(1.0, INF, NAN), max_norm=(0.0, 1.5, INF))
  def test_mask_zero_adds_zero_whatever_the_row_holds(self, value, max_norm):
    a, b = [1.0, value], [[2.0, -2.0], [value, value]]
    got = sum_of(a, b, max_norm, mask=[1.0, 0.0])
    np.testing.assert_array_equal(got, sum_of(a[:1], b[:1], max_norm))
    # Also as a piece of its own.
    alone = sum_of(a, b, max_norm, mask=[1.0, 0.0], microbatch=1)
    np.testing.assert_array_equal(alone, got)

  @parameterized.product(value=(INF, -INF, NAN), max_norm=(0.0, 1.5, INF))
  def test_gradient_not_finite_gives_nan(self, value, max_norm):
    got = sum_of([value, 1.0], [[value, value], [1.0, 1.0]], max_norm)
    self.assertTrue(np.isnan(got).all())

  def test_a_norm_too_large_for_its_type_gives_nan(self):
    got = sum_of([1e20, 1.0], [[1e20, 1e20], [1.0, 1.0]], 1.0)
    self.assertTrue(np.isnan(got).all())


class SensitivityTest(parameterized.TestCase):
  # Of examples predicted with certainty, 1 - p is small and rounded.
  @parameterized.parameters((1e-3, 1e-4), (0.3, 1e-6), (1.5, 1e-6))
  def test_every_example_adds_at_most_c(self, max_norm, rounding):
    params, batch = P.make_params(), one_batch(40)
    batch['features'] = batch['features'] * 10.0
    alone = jax.vmap(
      lambda row: traced(params, jax.tree.map(lambda x: x[None], row), max_norm)
    )(batch)
    norms = sum(
      np.square(np.float64(x)).reshape(40, -1).sum(1)
      for x in jax.tree.leaves(alone)
    )
    self.assertLessEqual(np.sqrt(norms).max(), max_norm * (1 + rounding))
    np.testing.assert_allclose(np.sqrt(norms).max(), max_norm, rtol=rounding)

  def test_one_example_changes_the_sum_by_at_most_c(self):
    params, batch = P.make_params(), one_batch(12)
    whole = P.as_float64(traced(params, batch, 0.3))
    for k in range(12):
      rest = batch | {'mask': batch['mask'].at[k].set(0.0)}
      rest = P.as_float64(traced(params, rest, 0.3))
      change = P.add((1.0, whole), (-1.0, rest))
      norm = np.sqrt(sum(np.square(x).sum() for x in change.values()))
      self.assertLessEqual(norm, 0.3 * (1 + 1e-5))

  def test_it_is_not_the_clipped_gradient_of_the_batch(self):
    # Two large gradients that cancel, and a small one that stays.
    got = sum_of([9.0, -9.0, 0.1], np.zeros((3, 2)), 1.0)
    np.testing.assert_allclose(got, [0.1, 0.0, 0.0], atol=1e-7)
    got = sum_of([9.0, 9.0, 0.1], np.zeros((3, 2)), 1.0)
    np.testing.assert_allclose(got, [2.1, 0.0, 0.0], rtol=1e-6)


class FormTest(parameterized.TestCase):
  def test_types_and_structure_are_those_of_grad(self):
    params = {'a': jnp.ones((), jnp.bfloat16), 'b': jnp.ones(2)}
    batch = {'a': jnp.ones(3), 'b': jnp.ones((3, 2)), 'mask': jnp.ones(3)}
    want = jax.grad(lambda p: given(p, batch).sum())(params)
    for microbatch in (None, 2):
      got = traced(params, batch, 1.0, fun=given, microbatch=microbatch)
      self.assertEqual(jax.tree.structure(got), jax.tree.structure(want))
      for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        self.assertEqual((x.shape, x.dtype), (y.shape, y.dtype))

  def test_half_precision_is_summed_in_single(self):
    whole, pieces = (
      sum_of(
        np.ones(1000),
        np.ones((1000, 2)),
        INF,
        microbatch=microbatch,
        dtype=jnp.bfloat16,
      )
      for microbatch in (None, 1)
    )
    np.testing.assert_array_equal(whole, [1000.0] * 3)
    np.testing.assert_array_equal(pieces, [1000.0] * 3)

  @parameterized.parameters(0, -3)
  def test_microbatch(self, microbatch):
    message = f'microbatch must be >= 1, got {microbatch}'
    with self.assertRaisesRegex(ValueError, message):
      clipped_sum(P.loss_fn, 1.0, microbatch=microbatch)(
        P.make_params(), one_batch(4)
      )

  def test_memory_grows_with_the_microbatch_alone(self):
    def fun(params, batch):
      hidden = jnp.tanh(batch['features'] @ params['a'])
      return jax.nn.logsumexp(hidden @ params['b'], axis=-1)

    params = {
      'a': jax.ShapeDtypeStruct((256, 512), jnp.float32),
      'b': jax.ShapeDtypeStruct((512, 10), jnp.float32),
    }

    def peak(size, microbatch):
      batch = {
        'features': jax.ShapeDtypeStruct((size, 256), jnp.float32),
        'mask': jax.ShapeDtypeStruct((size,), jnp.float32),
      }
      program = jax.jit(clipped_sum(fun, 1.0, microbatch=microbatch))
      analysis = program.lower(params, batch).compile().memory_analysis()
      return analysis.temp_size_in_bytes

    self.assertLess(peak(256, 4), 1.1 * peak(32, 4))
    self.assertGreater(peak(256, 32), 4 * peak(256, 4))


if __name__ == '__main__':
  absltest.main()
