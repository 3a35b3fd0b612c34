"""Layers of the speaker and keyword networks against Flax and NumPy."""

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models import tdnn
from unlearn_jax.models import tokens
from unlearn_jax.models.bc_resnet import SubSpectralNorm
from unlearn_jax.models.conv import Conv1d
from unlearn_jax.models.dense import Dense
from unlearn_jax.models.depthwise import Depthwise


def make(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def init(module, x):
  """Returns parameters without zeros and ones."""
  params = module.init(jax.random.key(0), x)
  return jax.tree.map(lambda p: p + make(*p.shape, seed=p.ndim), params)


class Conv1dTest(parameterized.TestCase):
  @parameterized.product(frames=(1, 4, 13), dilation=(2, 3), stride=(1, 2))
  def test_dilated_with_a_bias_equals_flax(self, frames, dilation, stride):
    x = make(6, frames, 3)
    for implementation in ('patches', 'native'):
      module = Conv1d(
        4, 3, stride, dilation, bias=True, implementation=implementation
      )
      params = init(module, x)
      theirs = nn.Conv(4, (3,), stride, kernel_dilation=dilation)
      np.testing.assert_allclose(
        module.apply(params, x),
        theirs.apply(params, x.transpose()).transpose(),
        rtol=1e-4,
        atol=1e-5,
      )


class DenseTest(absltest.TestCase):
  def test_equals_flax_with_any_axes_between(self):
    for shape in ((6, 3), (6, 4, 5, 3)):
      x = make(*shape)
      params = init(Dense(4), x)
      want = nn.Dense(4).apply(params, jnp.moveaxis(x, 0, -1))
      np.testing.assert_allclose(
        Dense(4).apply(params, x), jnp.moveaxis(want, -1, 0), rtol=1e-4
      )
    self.assertEqual(set(init(Dense(4, bias=False), x)['params']), {'kernel'})


class DepthwiseTest(parameterized.TestCase):
  @parameterized.parameters(
    ((3, 1), 1, 1, 1, 10),
    ((3, 1), 2, 1, 1, 10),
    ((3, 1), 2, 1, 1, 5),
    ((1, 3), 1, 4, 0, 1),
    ((5, 5), 1, 1, 0, 5),
    ((5, 3), 2, 2, 2, 7),
  )
  def test_equals_flax(self, size, stride, dilation, padding, bins):
    x = make(4, bins, 9, 3)
    module = Depthwise(size, stride, dilation, padding)
    params = init(module, x)
    frames = dilation * (size[1] // 2)
    theirs = nn.Conv(
      4,
      size,
      (stride, 1),
      padding=((padding, padding), (frames, frames)),
      kernel_dilation=(1, dilation),
      feature_group_count=4,
      use_bias=False,
    )
    want = theirs.apply(params, x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    np.testing.assert_allclose(
      module.apply(params, x), want, rtol=1e-4, atol=1e-5
    )


class SubSpectralNormTest(parameterized.TestCase):
  @parameterized.parameters((10, 5), (5, 5), (4, 1))
  def test_equals_numpy(self, bins, bands):
    x = 3.0 + make(4, bins, 6, 2)
    params = init(SubSpectralNorm(), x)
    layer = params['params']['GroupNorm_0']
    scale, bias = (
      np.repeat(np.reshape(layer[name], (4, bands)), bins // bands, axis=1)
      for name in ('scale', 'bias')
    )
    wide = np.asarray(x, np.float64)
    y = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-6)
    want = y * scale[..., None, None] + bias[..., None, None]
    got = SubSpectralNorm().apply(params, x)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


class TokensTest(absltest.TestCase):
  def test_linear_and_norm_equal_flax(self):
    x = 2.0 + make(3, 5, 6)
    for ours, theirs in (
      (tokens.Linear(4), nn.Dense(4)),
      (tokens.LayerNorm(), nn.LayerNorm()),
    ):
      params = init(ours, x)
      np.testing.assert_allclose(
        ours.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-4
      )


class StatisticsTest(absltest.TestCase):
  def test_equals_numpy(self):
    x = make(4, 7, 2)
    wide = np.asarray(x, np.float64)
    want = np.concatenate([wide.mean(1), wide.std(1)])
    np.testing.assert_allclose(tdnn.statistics(x), want, rtol=1e-5, atol=1e-6)

  def test_weights_that_pick_frames_are_those_frames(self):
    x = make(4, 7, 2)
    weights = jnp.zeros((4, 7, 2)).at[:, jnp.asarray([1, 4])].set(0.5)
    np.testing.assert_allclose(
      tdnn.statistics(x, weights),
      tdnn.statistics(x[:, jnp.asarray([1, 4])]),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_a_constant_channel_has_a_finite_gradient(self):
    gradient = jax.grad(lambda x: tdnn.statistics(x).sum())(jnp.ones((2, 5, 1)))
    np.testing.assert_allclose(gradient, 0.2, rtol=1e-6)


if __name__ == '__main__':
  absltest.main()
