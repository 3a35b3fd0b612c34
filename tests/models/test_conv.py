"""Convolution and normalisation against Flax, in all layouts that occur."""

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models import conv
from unlearn_jax.models.norm import GroupNorm


def make_inputs(frames, width, channels=6, features=4, batch=3):
  rng = np.random.default_rng(frames * 100 + width)
  x = jnp.asarray(rng.normal(size=(channels, frames, batch)), jnp.float32)
  kernel = rng.normal(size=(width, channels, features))
  return x, jnp.asarray(kernel, jnp.float32)


def flax_conv(x, kernel, stride):
  width, _, features = kernel.shape
  module = nn.Conv(features, (width,), stride, use_bias=False)
  params = {'params': {'kernel': kernel}}
  return module.apply(params, x.transpose()).transpose()


class ConvTest(parameterized.TestCase):
  @parameterized.product(
    implementation=(conv.patches_conv1d, conv.native_conv1d),
    frames=(1, 2, 13, 98),
    width=(1, 2, 3, 9),
    stride=(1, 2, 3),
  )
  def test_equals_flax(self, implementation, frames, width, stride):
    x, kernel = make_inputs(frames, width)
    got = implementation(x, kernel, stride)
    want = flax_conv(x, kernel, stride)
    self.assertEqual(got.shape, want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

  @parameterized.product(width=(1, 9), stride=(1, 2))
  def test_gradients_equal_flax(self, width, stride):
    inputs = make_inputs(13, width)

    def gradients(implementation):
      loss = lambda x, k: jnp.sin(implementation(x, k, stride)).sum()  # noqa: E731
      return jax.grad(loss, argnums=(0, 1))(*inputs)

    for got, want in zip(
      gradients(conv.patches_conv1d), gradients(flax_conv), strict=True
    ):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  def test_vmap_over_kernels_equals_one_after_another(self):
    x, kernel = make_inputs(13, 9)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    got = jax.vmap(lambda k: conv.patches_conv1d(x, k, 2))(kernels)
    for k, y in zip(kernels, got, strict=True):
      np.testing.assert_allclose(
        y, conv.patches_conv1d(x, k, 2), rtol=1e-5, atol=1e-5
      )

  def test_implementations_share_parameters(self):
    x, _ = make_inputs(13, 9)
    key = jax.random.key(0)
    patches, native = (
      conv.Conv1d(5, 9, 2, implementation=implementation)
      for implementation in ('patches', 'native')
    )
    params = patches.init(key, x)
    np.testing.assert_array_equal(
      params['params']['kernel'], native.init(key, x)['params']['kernel']
    )
    np.testing.assert_allclose(
      patches.apply(params, x), native.apply(params, x), rtol=1e-5, atol=1e-5
    )


class GroupNormTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 4, 8)
  def test_equals_flax(self, groups):
    rng = np.random.default_rng(groups)
    x = jnp.asarray(3.0 + rng.normal(size=(8, 11, 3)), jnp.float32)
    params = {
      'scale': jnp.asarray(rng.normal(size=8), jnp.float32),
      'bias': jnp.asarray(rng.normal(size=8), jnp.float32),
    }

    def outputs(module, x):
      return module.apply({'params': params}, x)

    got = outputs(GroupNorm(groups), x)
    want = outputs(nn.GroupNorm(groups), x.transpose()).transpose()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_examples_do_not_depend_on_their_batch(self):
    x = jax.random.normal(jax.random.key(0), (8, 11, 3))
    module = GroupNorm(4)
    params = module.init(jax.random.key(1), x)
    together = module.apply(params, x)
    for i in range(3):
      alone = module.apply(params, x[..., i : i + 1])
      np.testing.assert_allclose(
        together[..., i : i + 1], alone, rtol=1e-5, atol=1e-6
      )

  def test_constant_input_gives_the_bias_and_a_finite_gradient(self):
    module = GroupNorm(2)
    x = jnp.full((8, 11, 3), 7.0)
    params = module.init(jax.random.key(0), x)
    gradient = jax.grad(lambda x: module.apply(params, x).sum())(x)
    np.testing.assert_allclose(module.apply(params, x), 0.0, atol=2e-3)
    self.assertTrue(jnp.isfinite(gradient).all())

  def test_groups_must_divide_the_channels(self):
    with self.assertRaisesRegex(ValueError, 'divide the 8 channels, got 3'):
      GroupNorm(3).init(jax.random.key(0), jnp.zeros((8, 5, 2)))


if __name__ == '__main__':
  absltest.main()
