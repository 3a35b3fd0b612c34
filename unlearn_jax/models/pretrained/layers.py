"""Transformer layers as functions of parameters, all layers under one scan.

Activations are [batch, frames, channels]. Parameters are float32, stacked over
layers; a layer casts them to the type of its activations, so that bfloat16 goes
in where bfloat16 is wanted. Statistics of norms and logits of attention are in
float32.

A stack may be cut in segments, for instance the layers that train behind those
that do not: each is a scan of its own, and a backward pass ends where nothing
before trains.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.models.gelu import gelu
from unlearn_jax.types import Params

_UNROLL = 4  # Layers in one iteration on CPU.


@dataclasses.dataclass(frozen=True)
class Stack:
  """The sizes of a transformer encoder.

  Attributes:
    layers: how many.
    width: channels of an activation.
    heads: of attention; they divide the width.
    inner: channels between the two products of a layer.
    pre_norm: normalise what goes into attention and into the products, and
      not their sums with the shortcuts.
    epsilon: added to variances.
  """

  layers: int
  width: int
  heads: int
  inner: int
  pre_norm: bool
  epsilon: float


class Encoded(NamedTuple):
  """What an encoder makes of a batch.

  Attributes:
    frames: [batch, frames, channels], what a classifier reads.
    lengths: [batch] int32, frames that are no padding; None where all are.
    means: of each block by its name, [batch, channels], over frames.
  """

  frames: jax.Array
  lengths: jax.Array | None
  means: dict[str, jax.Array]


def shift(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Adds a weight [...] to the last axes of x, in the type of x."""
  return x + jnp.expand_dims(
    weight.astype(x.dtype), range(x.ndim - weight.ndim)
  )


def linear(params: Params, x: jax.Array) -> jax.Array:
  """Maps [..., inputs] to [..., outputs].

  Args:
    params: `kernel`; `bias`, which may be absent; and where LoRA adds to the
      kernel, `low_rank`: its factors [rank, inputs] and [outputs, rank].
    x: any float type, which is that of the products.
  """
  y = x @ params['kernel'].astype(x.dtype)
  if 'low_rank' in params:
    a, b = (factor.astype(x.dtype) for factor in params['low_rank'])
    y = y + (x @ a.transpose()) @ b.transpose()
  if 'bias' in params:
    y = shift(y, params['bias'])
  return y


def norm(
  params: Params, x: jax.Array, epsilon: float, axis: int = -1
) -> jax.Array:
  """Normalises [batch, frames, channels] over one axis; scales channels."""
  y = x.astype(jnp.float32)
  # Of few passes over x: the variance by squares, then one product and sum.
  mean = y.mean(axis, keepdims=True)
  variance = jnp.square(y).mean(axis, keepdims=True) - jnp.square(mean)
  scale, bias = (params[name][None, None, :] for name in ('scale', 'bias'))
  slope = scale * lax.rsqrt(jnp.maximum(variance, 0) + epsilon)
  return (y * slope + (bias - mean * slope)).astype(x.dtype)


def attention(
  params: Params, x: jax.Array, heads: int, lengths: jax.Array | None
) -> jax.Array:
  """Attends from every frame to every frame within the length of its example.

  Args:
    params: of query, key, value and output.
    x: [batch, frames, channels].
    heads: they divide the channels.
    lengths: [batch] int32, frames that are no padding; None where all are.
  """
  fused = has_fused_attention(x.dtype, x.shape[-1] // heads)
  frames = x.shape[1]
  if fused:
    x, lengths = evened(x, lengths)
  by_head = (*x.shape[:2], heads, -1)
  query, key, value = (
    linear(params[name], x).reshape(by_head)
    for name in ('query', 'key', 'value')
  )
  y = jax.nn.dot_product_attention(
    query,
    key,
    value,
    key_value_seq_lengths=lengths,
    implementation='cudnn' if fused else 'xla',
  )
  return linear(params['output'], y.reshape(x.shape)[:, :frames])


def has_fused_attention(dtype: jnp.dtype, head: int) -> bool:
  """Tells whether the device has a fused kernel for heads of so many channels.

  cuDNN has it for NVIDIA GPUs from Ampere on, for 16-bit floats.
  """
  capability = getattr(jax.devices()[0], 'compute_capability', '')
  generation = capability.split('.')[0]
  known = generation.isdigit() and int(generation) >= 8
  return known and dtype == jnp.bfloat16 and head % 8 == 0 and head <= 128


def evened(
  x: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
  """Adds a frame of padding to an odd number of frames.

  The gradient of the fused attention exists for even numbers alone.

  Args:
    x: [batch, frames, channels].
    lengths: as in `attention`.

  Returns:
    x and lengths, which leave the new frame out.
  """
  batch, frames, _ = x.shape
  if frames % 2 == 0:
    return x, lengths
  if lengths is None:
    lengths = jnp.full(batch, frames, jnp.int32)
  return jnp.pad(x, ((0, 0), (0, 1), (0, 0))), lengths


def layer(
  stack: Stack, params: Params, x: jax.Array, lengths: jax.Array | None
) -> jax.Array:
  """Maps [batch, frames, channels] to the same shape."""

  def attend(x):
    return attention(params['attention'], x, stack.heads, lengths)

  def feed_forward(x):
    return linear(params['contract'], gelu(linear(params['expand'], x)))

  for name, part in (
    ('attention_norm', attend),
    ('output_norm', feed_forward),
  ):
    normalise = functools.partial(norm, params[name], epsilon=stack.epsilon)
    x = x + part(normalise(x)) if stack.pre_norm else normalise(x + part(x))
  return x


def run(
  stack: Stack,
  params: Params | tuple[Params, ...],
  x: jax.Array,
  lengths: jax.Array | None,
  *,
  remat: bool,
  shares: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Applies all layers.

  Args:
    stack: sizes.
    params: of all layers, stacked; or a tuple of such stacks, one after
      another.
    x: [batch, frames, channels].
    lengths: as in `attention`.
    remat: compute a layer's activations again in the backward pass.
    shares: [layers + 1], of the sum over what goes into each layer, and last
      over what the caller adds to it; None makes no sum.

  Returns:
    what comes out of the last layer; the output of each, mean over frames that
    are no padding, [layers, batch, channels] float32; the sum, or the output
    of the last layer where there is none.
  """

  def body(carry, per_layer):
    x, total = carry
    weights, share = per_layer
    if total is not None:
      total = total + share.astype(x.dtype) * x
    x = layer(stack, weights, x, lengths)
    return (x, total), masked_mean(x.astype(jnp.float32), lengths)

  if remat:
    body = jax.checkpoint(body, prevent_cse=False)
  # Fewer copies between iterations; a GPU has time for them. What is computed
  # again must stay in a loop of its own, or it is merged with the first time.
  unroll = _UNROLL if jax.default_backend() == 'cpu' and not remat else 1
  segments = params if isinstance(params, tuple) else (params,)
  carry = x, None if shares is None else jnp.zeros_like(x)
  means, start = [], 0
  for segment in segments:
    stop = start + len(jax.tree.leaves(segment)[0])
    share = None if shares is None else shares[start:stop]
    carry, mean = lax.scan(body, carry, (segment, share), unroll=unroll)
    means.append(mean)
    start = stop
  x, total = carry
  return x, jnp.concatenate(means), x if total is None else total


def within(lengths: jax.Array, frames: int) -> jax.Array:
  """Says which frames are no padding, [batch, frames] bool."""
  return jnp.arange(frames)[None, :] < lengths[:, None]


def masked_mean(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
  """Averages [batch, frames, channels] over frames that are no padding."""
  if lengths is None:
    return x.mean(1)
  inside = within(lengths, x.shape[1])[:, :, None]
  total = jnp.where(inside, x, 0).sum(1)
  return total / lengths[:, None].astype(x.dtype)
