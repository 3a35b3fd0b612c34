r"""The last layer: from embeddings [channels, batch] to logits.

'softmax' is a linear layer with a bias. 'aam' gives cosines, for the additive
angular margin of `training.losses`:

.. math:: z_c = s \, \hat w_c \cdot \hat x

Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face
Recognition", CVPR 2019, https://arxiv.org/abs/1801.07698, section 2.
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.models.dense import Dense
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.per_example import taps

HEADS = ('softmax', 'aam')
SCALE = 30.0  # s, as in ECAPA-TDNN.


def logit_scale(head: str) -> float:
  """Returns what a logit must be divided by to be a cosine; 1 for 'softmax'."""
  return SCALE if head == 'aam' else 1.0


def make(head: str, num_classes: int, name: str) -> nn.Module:
  """Returns the layer; a caller that is a module adopts it.

  Args:
    head: in `HEADS`.
    num_classes: its outputs.
    name: of its parameters.

  Raises:
    ValueError: if there is no such head.
  """
  if head not in HEADS:
    raise ValueError(f'head must be one of {", ".join(HEADS)}, got {head}.')
  layer = Cosine if head == 'aam' else Dense
  return layer(num_classes, name=name)


def outputs(
  embedding: jax.Array, head: str, num_classes: int, name: str
) -> Outputs:
  """Returns what a network gives: its embedding, and logits of a new head.

  Args:
    embedding: [channels, batch].
    head: as `make` takes it.
    num_classes: likewise.
    name: likewise.
  """
  logits = make(head, num_classes, name)(embedding)
  return Outputs(logits.transpose(), embedding.transpose())


def _inverse_norm(x):
  """Returns 1 / norm over axis 0, keeping it; bounded, so is its gradient."""
  return lax.rsqrt(jnp.maximum(jnp.square(x).sum(0, keepdims=True), 1e-12))


class UnitProduct(taps.Op):
  """Multiplies [channels, batch] with the normalised columns of a kernel."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns [features, batch]."""
    weight = weight.astype(x.dtype)
    return (weight * _inverse_norm(weight)).transpose() @ x

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels, features]."""
    weight = weight.astype(x.dtype)
    # The gradient is linear in that of the unit columns, of rank one.
    _, pull = jax.vjp(lambda w: w * _inverse_norm(w), weight)
    return jax.vmap(lambda g: pull(g)[0])(
      jnp.einsum('cb,fb->bcf', x, cotangent)
    )


class Cosine(nn.Module):
  """Scaled cosines between embeddings and one direction a class.

  Attributes:
    features: classes.
    scale: s.
  """

  features: int
  scale: float = SCALE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, batch] to [features, batch], in [-scale, scale]."""
    shape = (x.shape[0], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    unit = x * _inverse_norm(x)
    return self.scale * taps.apply(UnitProduct(), kernel, unit)
