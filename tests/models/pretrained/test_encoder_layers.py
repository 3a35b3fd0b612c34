"""Layers of pretrained encoders against sums written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pretrained_folders
import pytest
import scipy.stats

from unlearn_jax.models.gelu import gelu
from unlearn_jax.models.pretrained import convolution
from unlearn_jax.models.pretrained import layers

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
  ('width', 'stride', 'channels'), [(10, 5, 1), (3, 2, 4), (2, 2, 4), (3, 1, 4)]
)
@pytest.mark.parametrize('frames', [23, 24, 25])
def test_valid_convolution(width, stride, channels, frames):
  x = rng.standard_normal((2, frames, channels))
  kernel = rng.standard_normal((width, channels, 3))
  count = (frames - width) // stride + 1
  want = [
    np.einsum('bwc,wcf->bf', x[:, t * stride : t * stride + width], kernel)
    for t in range(count)
  ]
  got = convolution.valid(jnp.float32(x), jnp.float32(kernel), stride)
  np.testing.assert_allclose(got, np.stack(want, 1), rtol=1e-4, atol=1e-5)


# A kernel wider than all frames, and one of several chunks.
@pytest.mark.parametrize(('width', 'frames'), [(8, 5), (9, 20), (40, 13)])
def test_grouped_convolution(width, frames):
  groups, inputs, outputs = 3, 2, 4
  x = rng.standard_normal((2, frames, groups * inputs))
  kernel = rng.standard_normal((width, inputs, groups * outputs))
  padded = np.pad(x, ((0, 0), (width // 2, width), (0, 0)))
  want = np.zeros((2, frames, groups * outputs))
  for group in range(groups):
    mine = padded[:, :, group * inputs : (group + 1) * inputs]
    out = slice(group * outputs, (group + 1) * outputs)
    for t in range(frames):
      want[:, t, out] = np.einsum(
        'bwc,wcf->bf', mine[:, t : t + width], kernel[:, :, out]
      )
  got = convolution.grouped_same(jnp.float32(x), jnp.float32(kernel), groups)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('axis', [1, 2])
@pytest.mark.parametrize('offset', [0.0, 20.0])
def test_norm(axis, offset):
  x = rng.standard_normal((2, 50, 40)) + offset
  scale, bias = rng.standard_normal((2, 40))
  centered = x - x.mean(axis, keepdims=True)
  variance = np.square(centered).mean(axis, keepdims=True)
  want = centered / np.sqrt(variance + 1e-5) * scale + bias
  params = {'scale': jnp.float32(scale), 'bias': jnp.float32(bias)}
  got = layers.norm(params, jnp.float32(x), 1e-5, axis)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 + 1e-5 * offset)


def test_norm_of_silence_is_the_bias():
  params = {'scale': jnp.ones(3), 'bias': jnp.float32([1, 2, 3])}

  def total(x):
    return layers.norm(params, x, 1e-5, 1).sum()

  for level in (0.0, 0.1):
    x = jnp.full((1, 30, 3), level)
    np.testing.assert_allclose(
      layers.norm(params, x, 1e-5, 1)[0, 0], [1, 2, 3], atol=1e-3
    )
    assert jnp.isfinite(jax.grad(total)(x)).all()


def test_gelu_and_its_derivatives():
  x = np.linspace(-6, 6, 41)
  cdf = scipy.stats.norm.cdf(x)
  density = scipy.stats.norm.pdf(x)
  points = jnp.float32(x)
  first, second = jax.grad(gelu), jax.grad(jax.grad(gelu))
  for got, want in (
    (gelu(points), x * cdf),
    (jax.vmap(first)(points), cdf + x * density),
    (jax.vmap(second)(points), (2 - x * x) * density),
  ):
    np.testing.assert_allclose(got, want, atol=2e-6)


def stack_of(name='hubert_large'):
  network = pretrained_folders.network(name)
  params = pretrained_folders.params(name)
  return network.encoder.stack, params['layers']


def test_segments_are_the_whole_stack():
  stack, params = stack_of()
  x = jnp.float32(rng.standard_normal((2, 7, stack.width)))
  lengths = jnp.array([7, 4], jnp.int32)
  shares = jnp.float32([0.2, 0.3, 0.5])
  cut = tuple(jax.tree.map(lambda p, s=s: p[s], params) for s in np.s_[:1, 1:])
  whole, parts = (
    layers.run(stack, p, x, lengths, remat=False, shares=shares)
    for p in (params, cut)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-6), whole, parts
  )


def test_remat_changes_no_gradient():
  stack, params = stack_of()
  x = jnp.float32(rng.standard_normal((2, 7, stack.width)))

  def loss_fn(params, remat):
    return jnp.square(layers.run(stack, params, x, None, remat=remat)[0]).sum()

  once, again = (jax.grad(loss_fn)(params, remat) for remat in (False, True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), once, again
  )


@pytest.mark.parametrize('name', ['hubert_large', 'wav2vec2_large_superb'])
def test_padding_changes_nothing_where_it_is_masked(name):
  network = pretrained_folders.network(name)
  params = pretrained_folders.params(name)
  short = jnp.float32(rng.standard_normal((2, 2_500)))
  long = jnp.pad(short, ((0, 0), (0, 1_300)))
  lengths = jnp.array([2_500, 2_000], jnp.int32)
  noise = long.at[1, 2_000:].set(7.0)
  # A masked sample reaches a frame only if the window of that frame sees it.
  said = [
    network.apply(params, x, lengths)
    for x in (short.at[1, 2_000:].set(0.0), long.at[1, 2_000:].set(0.0))
  ]
  np.testing.assert_allclose(said[0].logits, said[1].logits, rtol=1e-4)
  heard = network.apply(params, noise, lengths).logits
  np.testing.assert_allclose(heard, said[0].logits, rtol=1e-4)


def test_bfloat16_is_near_float32():
  network = pretrained_folders.network('hubert_large')
  params = pretrained_folders.params('hubert_large')
  x = jnp.float32(rng.standard_normal((4, 3_000)))
  full = network.apply(params, x)
  half = network.apply(params, x, dtype=jnp.bfloat16)
  assert half.encoded.frames.dtype == jnp.bfloat16
  assert half.logits.dtype == jnp.float32
  assert (
    jnp.abs(half.logits - full.logits).max() < 0.05 * jnp.abs(full.logits).max()
  )


def test_frames_of_a_second():
  encoder = pretrained_folders.network('hubert_base').encoder
  assert encoder.window == 10 + 5 * (2 + 4 * (2 + 4 * 1))
  assert encoder.hop == 5 * 4 * 4 * 4
  assert encoder.frames(encoder.window) == 1
  assert encoder.frames(encoder.window - 1) == 0
  assert encoder.frames(encoder.window + encoder.hop) == 2


def attention_of(width):
  def matrix():
    return jnp.float32(rng.standard_normal((width, width)) / np.sqrt(width))

  return {
    name: {'kernel': matrix(), 'bias': jnp.zeros(width)}
    for name in ('query', 'key', 'value', 'output')
  }


@pytest.mark.parametrize('lengths', [None, jnp.array([7, 4], jnp.int32)])
def test_a_frame_added_for_the_fused_kernel_is_not_attended_to(lengths):
  params = attention_of(16)
  x = jnp.float32(rng.standard_normal((2, 7, 16)))
  more, longer = layers.evened(x, lengths)
  assert more.shape[1] == 8
  want = layers.attention(params, x, 2, lengths)
  got = layers.attention(params, more.at[:, 7].set(9.0), 2, longer)
  np.testing.assert_allclose(got[:, :7], want, rtol=1e-5, atol=1e-6)
  even, same = layers.evened(more, longer)
  assert even is more
  assert same is longer


@pytest.mark.parametrize('lengths', [None, jnp.array([49, 20], jnp.int32)])
@pytest.mark.parametrize('frames', [49, 50])
def test_fused_attention(lengths, frames):
  if not layers.has_fused_attention(jnp.bfloat16, 64):
    pytest.skip('There is no device with a fused attention.')
  params = attention_of(128)
  x = jnp.float32(rng.standard_normal((2, frames, 128)))

  def loss_fn(params, x):
    y = layers.attention(params, x, 2, lengths).astype(jnp.float32)
    # What padding says is of no account.
    return jnp.square(y[:, :20]).mean()

  want = jax.grad(loss_fn, (0, 1))(params, x)
  half = jax.tree.map(jnp.bfloat16, (params, x))
  program = jax.jit(jax.grad(loss_fn, (0, 1)))
  assert 'fmha' in program.lower(*half).compile().as_text()
  for got, exact in zip(
    jax.tree.leaves(program(*half)), jax.tree.leaves(want), strict=True
  ):
    error = jnp.linalg.norm(got.astype(jnp.float32) - exact)
    assert error < 0.03 * jnp.linalg.norm(exact) + 1e-4


def test_without_a_gpu_attention_is_not_fused():
  if jax.default_backend() == 'gpu':
    pytest.skip('There is a GPU.')
  assert not layers.has_fused_attention(jnp.bfloat16, 64)
