"""TC-ResNet8 against a float64 NumPy twin, and the network registry."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.models import registry
from unlearn_jax.types import InputError

CLASSES, SHAPE = 20, (98, 40)

_CLASSIFIER = registry.build('tc_resnet8', CLASSES, SHAPE)
_predict = jax.jit(_CLASSIFIER.predict_fn)


def twin_conv(x, kernel, stride):
  """Sums tap by tap; x [batch, frames, channels], 'SAME' padding."""
  width, outputs = kernel.shape[0], -(-x.shape[1] // stride)
  total = max((outputs - 1) * stride + width - x.shape[1], 0)
  x = np.pad(x, ((0, 0), (total // 2, total - total // 2), (0, 0)))
  rows = np.arange(outputs) * stride
  return sum(x[:, rows + i] @ kernel[i] for i in range(width))


def twin_norm(x, layer, groups=8):
  batch, frames, channels = x.shape
  y = x.reshape(batch, frames, groups, channels // groups)
  mean, var = y.mean((1, 3), keepdims=True), y.var((1, 3), keepdims=True)
  y = ((y - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
  return y * layer['scale'] + layer['bias']


def twin_network(params, x):
  x = np.asarray(x, np.float64)
  mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)
  x = (x - mean) / (std + 1e-3)
  x = twin_conv(x, params['Conv1d_0']['kernel'], 1)
  for i in range(3):
    layers = params[f'ResidualBlock_{i}']

    def conv_norm(x, j, stride, layers=layers):
      y = twin_conv(x, layers[f'Conv1d_{j}']['kernel'], stride)
      return twin_norm(y, layers[f'GroupNorm_{j}'])

    shortcut = np.maximum(conv_norm(x, 0, 2), 0)
    x = np.maximum(conv_norm(x, 1, 2), 0)
    x = np.maximum(conv_norm(x, 2, 1) + shortcut, 0)
  return x.mean(1) @ params['Dense_0']['kernel'] + params['Dense_0']['bias']


class TCResNet8Test(absltest.TestCase):
  def setUp(self):
    super().setUp()
    params = _CLASSIFIER.init_fn(jax.random.key(0))
    # Away from the initial ones and zeros, which would hide mistakes.
    self.params = jax.tree.map(
      lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
    )
    rng = np.random.default_rng(0)
    self.x = rng.normal(-5.0, 3.0, (3, *SHAPE)).astype(np.float32)

  def predict(self, x):
    return _predict(self.params, {'features': x})

  def test_equals_twin(self):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), self.params)
    np.testing.assert_allclose(
      self.predict(self.x), twin_network(params, self.x), rtol=1e-3, atol=1e-4
    )

  def test_size(self):
    size = sum(x.size for x in jax.tree.leaves(self.params))
    self.assertEqual(size, 65_540)

  def test_half_precision_features_are_widened(self):
    half = self.x.astype(np.float16)
    got = self.predict(half)
    self.assertEqual(got.dtype, jnp.float32)
    np.testing.assert_array_equal(got, self.predict(half.astype(np.float32)))

  def test_level_of_a_clip_does_not_matter(self):
    louder = self.predict(self.x + 4.0)
    np.testing.assert_allclose(louder, self.predict(self.x), atol=1e-3)


def test_unknown_network():
  with pytest.raises(InputError, match='--model=x: must be one of tc_resnet8'):
    registry.build('x', 2, SHAPE)


def test_layers_are_the_blocks_and_end_in_the_logits():
  params = _CLASSIFIER.init_fn(jax.random.key(0))
  features = np.random.default_rng(0).normal(size=(5, *SHAPE))
  batch = {'features': jnp.asarray(features, jnp.float32)}
  layers = jax.jit(_CLASSIFIER.layers_fn)(params, batch)
  assert set(layers) == set(_CLASSIFIER.blocks)
  widths = {name: x.shape for name, x in layers.items()}
  assert widths == {
    'Conv1d_0': (5, 16),
    'ResidualBlock_0': (5, 24),
    'ResidualBlock_1': (5, 32),
    'ResidualBlock_2': (5, 48),
    'Dense_0': (5, CLASSES),
  }
  logits = _predict(params, batch)
  np.testing.assert_allclose(layers['Dense_0'], logits, atol=1e-5)
  # The head reads the mean over time of the last block.
  head = params['Dense_0']
  np.testing.assert_allclose(
    layers['ResidualBlock_2'] @ head['kernel'] + head['bias'][None],
    logits,
    atol=1e-5,
  )


if __name__ == '__main__':
  absltest.main()
