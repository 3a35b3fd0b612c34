"""Keyword Transformer: a transformer over the frames of a clip.

Each frame is a token; a learned class token stands in front of them, learned
positions are added. Layers normalise after the sum ("post-norm"). The head
reads the class token after one more normalisation. There is no dropout: a
network here is a pure function of parameters and batch.

Source: Berg et al., "Keyword Transformer: A Self-Attention Model for Keyword
Spotting", Interspeech 2021, https://arxiv.org/abs/2104.00769, section 2.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.models import heads
from unlearn_jax.models.gelu import gelu
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.models.standardise import standardise
from unlearn_jax.models.tokens import LayerNorm
from unlearn_jax.models.tokens import Linear
from unlearn_jax.models.tokens import Prepend
from unlearn_jax.models.tokens import Shift
from unlearn_jax.per_example import taps

_HEAD_SIZE = 64  # Channels of an attention head, in all three networks.


class Tokens(nn.Module):
  """Frames to tokens, a class token, positions."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, frames, bins] to [batch, frames + 1, width].

    Raises:
      ValueError: if there are not as many frames as there were in `init`.
    """
    frames = x.shape[1]
    if self.has_variable('params', 'positions'):
      known = self.get_variable('params', 'positions').shape[0] - 1
      if frames != known:
        raise ValueError(f'features must have {known} frames, got {frames}.')
    normal = nn.initializers.normal(0.02)
    token = self.param('class_token', normal, (self.width,))
    positions = self.param('positions', normal, (frames + 1, self.width))
    x = taps.apply(Prepend(), token, Linear(self.width)(x))
    return taps.apply(Shift(), positions, x)


class Attention(nn.Module):
  """Self-attention over tokens with several heads."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, tokens, channels] to the same shape."""
    qkv = jnp.split(Linear(3 * x.shape[2], bias=False)(x), 3, axis=2)
    q, k, v = (y.reshape(*x.shape[:2], -1, _HEAD_SIZE) for y in qkv)
    scores = jnp.einsum('bqhc,bkhc->bhqk', q * _HEAD_SIZE**-0.5, k)
    y = jnp.einsum('bhqk,bkhc->bqhc', nn.softmax(scores), v)
    return Linear(x.shape[2])(y.reshape(x.shape))


class Layer(nn.Module):
  """Attention and two linear layers, each with a shortcut, then a norm."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, tokens, channels] to the same shape."""
    channels = x.shape[2]
    x = LayerNorm()(x + Attention()(x))
    y = gelu(Linear(4 * channels)(x))
    return LayerNorm()(x + Linear(channels)(y))


class KWT(nn.Module):
  """Keyword Transformer; KWT-1 has 607 thousand parameters, one head.

  Attributes:
    num_classes: outputs.
    head: in `heads.HEADS`.
    width: channels of a token, 64 for each attention head.
    depth: layers.
  """

  num_classes: int
  head: str = 'softmax'
  width: int = 64
  depth: int = 12

  @nn.compact
  def __call__(self, features: jax.Array) -> Outputs:
    """Maps log-mels [batch, frames, bins] to logits and embeddings.

    Args:
      features: any float type, as many frames as in `init`.

    Raises:
      ValueError: if there are not as many frames as there were in `init`.
    """
    x = Tokens(self.width, name='tokens')(standardise(features))
    for i in range(self.depth):
      x = Layer(name=f'layer_{i}')(x)
    x = LayerNorm(name='norm')(x[:, 0]).transpose()
    return heads.outputs(x, self.head, self.num_classes, 'head')
