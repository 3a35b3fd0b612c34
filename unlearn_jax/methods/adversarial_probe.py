r"""Adversarial probe: hide the forgotten from whoever reads the embedding.

.. math::
  \min_\theta \; E_r[l_i] - g L(\theta, \phi), \quad \min_\phi L(\theta, \phi),
  \quad L = \tfrac12 E_f[-\log s(\phi^T h)] + \tfrac12 E_r[-\log s(-\phi^T h)]

A linear probe phi on the embedding h learns to tell the forgotten from the
retained (s is the logistic function); gradient reversal turns what helps it
against the network, in one backward pass for both. Data: both. The probe
belongs to the state of the method and goes when the method ends. It sees the
embedding at unit scale, h / sqrt(E|h|^2 / d), with that scale held fixed, so
that the network cannot win by shrinking. With g = 0 this is fine-tuning.

References:
  Ganin and Lempitsky, 2015, https://arxiv.org/abs/1409.7495, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.training.losses import at_once
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  EmbedFn,
  LossFn,
  Metrics,
  Params,
  UnlearningMethod,
)

_TINY = 1e-12


class Probe(NamedTuple):
  """A linear probe: weight [d], bias []."""

  weight: jax.Array
  bias: jax.Array


class AdversarialProbeState(NamedTuple):
  """State of the optimizer of (params, probe), the probe, and g."""

  optimizer: optax.OptState
  probe: Probe
  hyper: dict[str, jax.Array]


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns x; its gradient is multiplied by -scale."""
  del scale
  return x


reverse_gradient.defvjp(
  lambda x, scale: (x, scale),
  lambda scale, g: (-scale * g, jnp.zeros_like(scale)),
)


def probe_loss(
  probe: Probe, forget: jax.Array, retain: jax.Array, masks
) -> jax.Array:
  """Returns L, nats: ln 2 where the probe cannot tell.

  Args:
    probe: of embeddings at unit scale.
    forget: embeddings [batch, d].
    retain: likewise, [retain batch, d].
    masks: of both, 0 on padding.
  """
  sides = []
  for h, mask, sign in zip((forget, retain), masks, (1.0, -1.0), strict=True):
    logits = h @ probe.weight + probe.bias
    sides.append(masked_mean(jax.nn.softplus(-sign * logits), mask))
  return 0.5 * (sides[0] + sides[1])


def adversarial_probe_direction(
  params: Params,
  probe: Probe,
  forget: Batch,
  retain: Batch,
  *,
  loss_fn: LossFn,
  embed_fn: EmbedFn,
  reversal: jax.typing.ArrayLike,
) -> tuple[tuple[Params, Probe], Metrics]:
  """Returns descent directions of the network and of the probe.

  Args:
    params: any pytree of arrays.
    probe: the adversary.
    forget: batch of the forget set; `mask` [batch] is 0 on padding. Its labels
      are not read.
    retain: batch of the retain set, of its own size.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    embed_fn: maps (params, batch) to embeddings [batch, d].
    reversal: g, at least 0.
  """
  masks = forget['mask'], retain['mask']
  scale = jnp.asarray(reversal, jnp.float32)

  def objective(pair):
    params, probe = pair
    losses, kept = at_once(loss_fn, embed_fn)(params, retain)
    sides = [embed_fn(params, forget), kept]
    size = masked_mean(jnp.square(sides[1]).mean(-1), masks[1])
    unit = jax.lax.rsqrt(jax.lax.stop_gradient(size) + _TINY)
    sides = [reverse_gradient(h * unit, scale) for h in sides]
    told = probe_loss(probe, *sides, masks)
    loss = masked_mean(losses, masks[1])
    return loss + told, {'retain_loss': loss, 'probe_loss': told}

  return jax.grad(objective, has_aux=True)((params, probe))


def adversarial_probe(
  loss_fn: LossFn,
  embed_fn: EmbedFn | None,
  tx: optax.GradientTransformation,
  *,
  embedding_size: int,
  reversal: float = 1.0,
) -> UnlearningMethod:
  """Adversarial probe as an `UnlearningMethod`.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    embed_fn: maps (params, batch) to embeddings [batch, embedding_size].
    tx: any optax transform; it sees the pair (params, probe).
    embedding_size: d, at least 1.
    reversal: g, at least 0.

  Raises:
    ValueError: if there is no embedding or an option is outside its bounds.
  """
  embed_fn = base.need_embedding(embed_fn)
  base.check_range('embedding_size', embedding_size, 1)
  base.check_range('reversal', reversal, 0.0)

  def init_fn(params, key):
    del key
    probe = Probe(jnp.zeros(embedding_size), jnp.zeros(()))
    hyper = {'reversal': jnp.asarray(reversal, jnp.float32)}
    return AdversarialProbeState(tx.init((params, probe)), probe, hyper)

  def update_fn(params, state, forget, retain, key):
    del key
    forget, retain = fill_padding(forget), fill_padding(retain)
    gradient, metrics = adversarial_probe_direction(
      params,
      state.probe,
      forget,
      retain,
      loss_fn=loss_fn,
      embed_fn=embed_fn,
      **state.hyper,
    )
    pair = params, state.probe
    updates, optimizer = tx.update(gradient, state.optimizer, pair)
    params, probe = optax.apply_updates(pair, updates)
    return params, state._replace(optimizer=optimizer, probe=probe), metrics

  return UnlearningMethod(
    init_fn, update_fn, needs=frozenset({'forget', 'retain'})
  )
