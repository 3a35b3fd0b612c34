"""Moments per bin against NumPy, and rows that must not reach a gradient."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods import inputs

FRAMES, BINS = 5, 3


def clips(size, dtype):
  rng = np.random.default_rng(0)
  x = rng.normal([-5.0, 0.0, 40.0], [3.0, 1.0, 0.1], (size, FRAMES, BINS))
  return x.astype(dtype)


class MomentsTest(parameterized.TestCase):
  @parameterized.product(size=(4, 7), dtype=(np.float32, np.float16))
  def test_of_index_batches_equal_numpy(self, size, dtype):
    features = clips(30, dtype)
    rows = np.arange(3, 24)
    got = inputs.moments(
      batches.one_pass(rows, size),
      {'features': jnp.asarray(features)},
      'features',
    )
    kept = features[rows].astype(np.float64)
    for value, want in zip(got, (kept.mean((0, 1)), kept.std((0, 1)))):  # noqa: B905
      self.assertEqual((value.shape, value.dtype), ((BINS,), jnp.float32))
      np.testing.assert_allclose(value, want, rtol=2e-5)

  @parameterized.parameters(np.nan, np.inf, 7.0)
  def test_of_batches_do_not_read_padding(self, value):
    batch = P.nonsense(P.make_batches(1, 3, 5, padding=2), 0)
    keep = np.asarray(batch['mask']) > 0
    kept = np.asarray(batch['features'])[keep]
    poison = jnp.where(keep[..., None], batch['features'], value)
    got = inputs.moments({**batch, 'features': poison}, None, 'features')
    np.testing.assert_allclose(got[0], kept.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], kept.std(0), rtol=1e-5)

  def test_of_nothing_are_zero(self):
    batch = P.make_batches(1, 3, 5, padding=5)
    for value in inputs.moments(batch, None, 'features'):
      np.testing.assert_array_equal(value, np.zeros(P.FEATURES))


class FillPaddingTest(parameterized.TestCase):
  def test_real_rows_stay_and_the_others_become_real(self):
    mask = jnp.asarray([0.0, 1.0, 0.0, 1.0])
    x = jnp.asarray([[np.nan, 1.0], [2.0, 3.0], [np.inf, 0.0], [4.0, 5.0]])
    got = batches.fill_padding(
      {'x': x, 'label': jnp.asarray([101, 1, -7, 2]), 'mask': mask}
    )
    want = [[2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [4.0, 5.0]]
    np.testing.assert_array_equal(got['x'], want)
    np.testing.assert_array_equal(got['label'], [1, 1, 1, 2])
    np.testing.assert_array_equal(got['mask'], mask)

  def test_a_batch_of_padding_alone_becomes_zeros(self):
    batch = {'x': jnp.full((3, 2), jnp.nan), 'mask': jnp.zeros(3)}
    got = batches.fill_padding(batch)
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, batch))


if __name__ == '__main__':
  absltest.main()
