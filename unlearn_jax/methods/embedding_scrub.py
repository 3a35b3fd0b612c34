r"""Embedding scrub: give forgotten voices another embedding, keep the rest.

.. math::
  J = \tfrac{1}{v} E_f \|h(x) - t(x)\|^2
    + \tfrac{w}{v} E_r \|h(x) - h_o(x)\|^2 + w E_r[KL(p_o || p)]
    + u E_f[KL(\tilde p_o || p)]

with the embedding h of the network, h_o that of the original one, and v the
variance of h_o over the retain batch, which frees the weights of units. The
last term is DELETE's, p_o without the true class, for requests that remove
whole classes: near the mean of all embeddings any class may win, the forgotten
one too. Data: both. Moving the output alone leaves a voice recognisable by its
embedding; here the embedding itself gets the target t, which is one of

* 'generic': h_o(x) - E_f[h_o] + E_r[h_o], what the original would say of the
  same words from nobody in particular;
* 'random': the embedding of a freshly initialised network, made as long as
  h_o(x).

With w = u = 0 only the forget set is moved; where t = h_o and u = 0 the loss
is 0.

References:
  Bad teacher (Chundawat et al., 2023, https://arxiv.org/abs/2205.08096) on
  features in place of outputs; the paper "Speech Unlearning" names rules on
  representations as an open direction (section 6).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.delete import without_label
from unlearn_jax.methods.divergence import kl_divergence
from unlearn_jax.training.losses import at_once
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  EmbedFn,
  InitParamsFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)

Reference = Literal['generic', 'random']
_TINY = 1e-12


def masked_row_mean(rows: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the mean [d] of `rows` [batch, d] where `mask` [batch] is one."""
  kept = jnp.where(mask[:, None] > 0, rows, 0.0)
  return kept.sum(0) / jnp.maximum(mask.sum(), 1.0)


def generic_target(
  forget: jax.Array,
  retain: jax.Array,
  forget_mask: jax.Array,
  retain_mask: jax.Array,
) -> jax.Array:
  """Moves forgotten embeddings so that their mean is that of the retained.

  Args:
    forget: of the original model, [batch, d].
    retain: likewise, [retain batch, d].
    forget_mask: [batch], 0 on padding.
    retain_mask: [retain batch].

  Returns:
    [batch, d].
  """
  shift = masked_row_mean(retain, retain_mask)
  shift -= masked_row_mean(forget, forget_mask)
  return forget + shift[None]


def with_length_of(target: jax.Array, other: jax.Array) -> jax.Array:
  """Scales each row of `target` [batch, d] to the length of `other`'s."""
  lengths = [
    jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (other, target)
  ]
  return target * lengths[0] / jnp.maximum(lengths[1], _TINY)


def embedding_scrub_direction(
  params: Params,
  forget: Batch,
  retain: Batch,
  *,
  embed_fn: EmbedFn,
  predict_fn: PredictFn,
  original: Params,
  random: Params | None,
  retain_weight: jax.typing.ArrayLike,
  output_weight: jax.typing.ArrayLike = 0.0,
) -> tuple[Params, Metrics]:
  """Returns the gradient of J.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size.
    embed_fn: maps (params, batch) to embeddings [batch, d].
    predict_fn: maps (params, batch) to logits [batch, classes].
    original: parameters of the teacher on the retain set.
    random: parameters of the teacher on the forget set; None is the generic
      target.
    retain_weight: w, at least 0.
    output_weight: u, at least 0; needs `label` [batch] in the forget batch.
  """
  outputs_fn = at_once(embed_fn, predict_fn)
  before, before_logits = outputs_fn(original, forget)
  kept, kept_logits = outputs_fn(original, retain)
  others = without_label(before_logits, forget['label'])
  if random is None:
    target = generic_target(before, kept, forget['mask'], retain['mask'])
  else:
    target = with_length_of(embed_fn(random, forget), before)
  mean = masked_row_mean(kept, retain['mask'])
  spread = jnp.square(kept - mean[None]).sum(-1)
  variance = jnp.maximum(masked_mean(spread, retain['mask']), _TINY)

  def distance(embedding, target, mask):
    squared = jnp.square(embedding - target).sum(-1)
    return masked_mean(squared, mask) / variance

  def objective(params):
    embedding, logits = outputs_fn(params, forget)
    moved = distance(embedding, target, forget['mask'])
    gone = masked_mean(kl_divergence(others, logits), forget['mask'])
    embedding, logits = outputs_fn(params, retain)
    drift = distance(embedding, kept, retain['mask'])
    kl = masked_mean(kl_divergence(kept_logits, logits), retain['mask'])
    metrics = {'forget_distance': moved, 'retain_distance': drift}
    return moved + retain_weight * (drift + kl) + output_weight * gone, metrics

  return jax.grad(objective, has_aux=True)(params)


def embedding_scrub(
  embed_fn: EmbedFn | None,
  predict_fn: PredictFn,
  init_fn: InitParamsFn,
  tx: optax.GradientTransformation,
  *,
  retain_weight: float = 1.0,
  output_weight: float = 0.0,
  reference: Reference = 'generic',
) -> UnlearningMethod:
  """Embedding scrub as an `UnlearningMethod`.

  Args:
    embed_fn: maps (params, batch) to embeddings [batch, d].
    predict_fn: maps (params, batch) to logits [batch, classes].
    init_fn: gives the random teacher, from the key of the run.
    tx: any optax transform.
    retain_weight: w, at least 0.
    output_weight: u, at least 0; above 0 for requests that remove classes.
    reference: 'generic' or 'random', the target on the forget set.

  Raises:
    ValueError: if there is no embedding or an option is outside its bounds.
  """
  embed_fn = base.need_embedding(embed_fn)
  base.check_range('retain_weight', retain_weight, 0.0)
  base.check_range('output_weight', output_weight, 0.0)
  if reference not in ('generic', 'random'):
    raise ValueError(
      f"reference must be 'generic' or 'random', got {reference!r}."
    )

  def freeze(params, key):
    random = init_fn(key) if reference == 'random' else None
    return {'original': params, 'random': random}

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key
    return embedding_scrub_direction(
      params,
      forget,
      retain,
      embed_fn=embed_fn,
      predict_fn=predict_fn,
      **frozen,
      **hyper,
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={'retain_weight': retain_weight, 'output_weight': output_weight},
    freeze=freeze,
    needs=('forget', 'retain'),
  )
