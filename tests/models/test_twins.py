"""Networks against float64 NumPy twins, written example by example.

A clip is [frames, channels], or [frames, bins, channels], throughout.
"""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from unlearn_jax.models.bc_resnet import BCResNet
from unlearn_jax.models.ecapa_tdnn import ECAPATDNN
from unlearn_jax.models.kwt import KWT
from unlearn_jax.models.x_vector import XVector

FRAMES, BINS, CLASSES = 14, 20, 3


def relu(x):
  return np.maximum(x, 0.0)


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def standardise(x):
  return (x - x.mean()) / (x.std() + 1e-3)


def dense(layer, x):
  return x @ layer['kernel'] + layer.get('bias', 0.0)


def conv(layer, x, dilation=1):
  """Sums frame by frame over the taps that lie in the clip."""
  kernel = layer['kernel']
  y = np.zeros((len(x), kernel.shape[2])) + layer.get('bias', 0.0)
  for t in range(len(x)):
    for i, matrix in enumerate(kernel):
      source = t + dilation * (i - len(kernel) // 2)
      if 0 <= source < len(x):
        y[t] += x[source] @ matrix
  return y


def group_norm(layer, x, groups):
  """Normalises [..., channels] group by group."""
  parts = np.split(x, groups, axis=-1)
  parts = [(p - p.mean()) / np.sqrt(p.var() + 1e-6) for p in parts]
  return np.concatenate(parts, -1) * layer['scale'] + layer['bias']


def layer_norm(layer, x):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * layer['scale'] + layer['bias']


def softmax(x, axis):
  e = np.exp(x - x.max(axis, keepdims=True))
  return e / e.sum(axis, keepdims=True)


def tdnn(layer, x, dilation=1, size=4):
  y = relu(conv(layer['Conv1d_0'], x, dilation))
  return group_norm(layer['GroupNorm_0'], y, y.shape[1] // size)


def x_vector(p, x):
  for i, dilation in enumerate((1, 2, 3, 1, 1), 1):
    x = tdnn(p[f'frame{i}'], x, dilation)
  pooled = np.concatenate([x.mean(0), x.std(0)])
  return dense(p['head'], dense(p['segment6'], pooled))


def res2(p, x, scale, dilation):
  parts = np.split(x, scale, axis=1)
  outputs = parts[:1]
  for i in range(1, scale):
    fed = parts[i] if i == 1 else parts[i] + outputs[-1]
    outputs.append(tdnn(p[f'TDNN_{i - 1}'], fed, dilation))
  return np.concatenate(outputs, 1)


def se_res2_block(p, x, dilation):
  y = tdnn(p['TDNN_0'], x)
  y = tdnn(p['TDNN_1'], res2(p['Res2_0'], y, 3, dilation))
  gate = p['SqueezeExcitation_0']
  hidden = relu(dense(gate['Dense_0'], y.mean(0)))
  return x + y * sigmoid(dense(gate['Dense_1'], hidden))


def attentive_statistics(p, x):
  # One kernel over [h; mean; deviation], as in the paper.
  kernel = np.concatenate([p['Conv1d_0']['kernel'][0], p['Dense_0']['kernel']])
  context = np.concatenate([x.mean(0), x.std(0)])
  rows = np.stack([np.concatenate([frame, context]) for frame in x])
  hidden = relu(rows @ kernel + p['Dense_0']['bias'])
  hidden = np.tanh(group_norm(p['GroupNorm_0'], hidden, hidden.shape[1] // 4))
  weights = softmax(conv(p['Conv1d_1'], hidden), 0)
  mean = (weights * x).sum(0)
  deviation = np.sqrt((weights * x**2).sum(0) - mean**2)
  return group_norm(p['GroupNorm_1'], np.concatenate([mean, deviation]), 2)


def ecapa_tdnn(p, x):
  outputs = [tdnn(p['conv'], x)]
  for i, dilation in enumerate((2, 3, 4)):
    outputs.append(se_res2_block(p[f'block_{i}'], sum(outputs), dilation))
  x = tdnn(p['aggregation'], np.concatenate(outputs[1:], 1))
  pooled = attentive_statistics(p['pooling'], x)
  return dense(p['head'], dense(p['embedding'], pooled))


def attention(p, x):
  heads, outputs = x.shape[1] // 64, []
  qkv = dense(p['Linear_0'], x).reshape(len(x), 3, heads, 64)
  for h in range(heads):
    q, k, v = qkv[:, 0, h], qkv[:, 1, h], qkv[:, 2, h]
    outputs.append(softmax(q @ k.T / 8.0, 1) @ v)
  return dense(p['Linear_1'], np.concatenate(outputs, 1))


def kwt(p, x):
  x = dense(p['tokens']['Linear_0'], x)
  x = np.concatenate([p['tokens']['class_token'][None], x])
  x = x + p['tokens']['positions']
  for i in range(2):
    layer = p[f'layer_{i}']
    x = layer_norm(layer['LayerNorm_0'], x + attention(layer['Attention_0'], x))
    y = dense(layer['Linear_0'], x)
    y = dense(layer['Linear_1'], y * special.ndtr(y))
    x = layer_norm(layer['LayerNorm_1'], x + y)
  return dense(p['head'], layer_norm(p['norm'], x[0]))


def conv2d(kernel, x, stride=1, dilation=1, padding=0, depthwise=False):
  """Sums place by place; [frames, bins, channels] and [bins, frames, ...]."""
  height, width = kernel.shape[:2]
  outputs = (x.shape[1] + 2 * padding - height) // stride + 1
  y = np.zeros((len(x), outputs, kernel.shape[-1]))
  for t, o, i, j in np.ndindex(len(x), outputs, height, width):
    frame, bin_ = t + dilation * (j - width // 2), o * stride + i - padding
    if 0 <= frame < len(x) and 0 <= bin_ < x.shape[1]:
      seen = x[frame, bin_]
      y[t, o] += seen * kernel[i, j, 0] if depthwise else seen @ kernel[i, j]
  return y


def sub_spectral_norm(p, x):
  bins, channels = x.shape[1:]
  bands = math.gcd(5, bins)
  scale, bias = (
    p['GroupNorm_0'][name].reshape(channels, bands).T
    for name in ('scale', 'bias')
  )
  x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
  band = np.arange(bins) // (bins // bands)
  return x * scale[band] + bias[band]


def bc_block(p, x, features, stride, dilation):
  shortcut, last = x, 0
  if x.shape[2] != features:
    x = relu(group_norm(p['GroupNorm_0'], dense(p['Dense_0'], x), 1))
    shortcut, last = 0.0, 1
  x = conv2d(p['Depthwise_0']['kernel'], x, stride, 1, 1, True)
  x = sub_spectral_norm(p['SubSpectralNorm_0'], x)
  y = x.mean(1, keepdims=True)
  y = conv2d(p['Depthwise_1']['kernel'], y, 1, dilation, 0, True)
  y = group_norm(p[f'GroupNorm_{last}'], y, 1)
  y = dense(p[f'Dense_{last}'], y * sigmoid(y))
  return relu(x + y + shortcut)


STAGES = ((1, 1.0, 1, 1), (2, 1.5, 2, 2))


def bc_resnet(p, x):
  stem = p['stem']
  kernel = stem['Dense_0']['kernel'].reshape(5, 5, 1, -1)
  x = conv2d(kernel, x[:, :, None], 2, 1, 2)
  x = relu(group_norm(stem['GroupNorm_0'], x, 1))
  for i, (blocks, factor, stride, dilation) in enumerate(STAGES):
    for j in range(blocks):
      layer = p[f'stage_{i}'][f'Block_{j}']
      step = 1 if j else stride
      x = bc_block(layer, x, int(8 * factor), step, dilation)
  tail = p['tail']
  x = conv2d(tail['Depthwise_0']['kernel'], x, depthwise=True)
  x = relu(group_norm(tail['GroupNorm_0'], dense(tail['Dense_0'], x), 1))
  return dense(p['head'], x.mean((0, 1)))


class TwinTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'x_vector',
      XVector(CLASSES, widths=(8,) * 5, embedding_size=6, group_size=4),
      x_vector,
    ),
    (
      'ecapa_tdnn',
      ECAPATDNN(
        CLASSES,
        channels=12,
        aggregated=12,
        scale=3,
        bottleneck=4,
        embedding_size=6,
        group_size=4,
      ),
      ecapa_tdnn,
    ),
    ('kwt', KWT(CLASSES, width=128, depth=2), kwt),
    ('bc_resnet', BCResNet(CLASSES, stages=STAGES), bc_resnet),
  )
  def test_equals_twin(self, module, twin):
    rng = np.random.default_rng(0)
    x = rng.normal(-5.0, 3.0, (2, FRAMES, BINS)).astype(np.float32)
    params = module.init(jax.random.key(0), jnp.asarray(x))['params']
    # Away from the initial ones and zeros, which would hide mistakes.
    params = jax.tree.map(
      lambda p: p + jnp.asarray(rng.normal(0.0, 0.1, p.shape), jnp.float32),
      params,
    )
    got = jax.jit(module.apply)({'params': params}, jnp.asarray(x))
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    want = [twin(wide, standardise(np.float64(clip))) for clip in x]
    np.testing.assert_allclose(got.logits, np.stack(want), rtol=1e-3, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
