r"""Training: descend the mean loss of augmented batches.

.. math:: \theta \leftarrow \theta - tx(\nabla E_{batch}[l_i(\theta)])
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import AugmentFn, LossFn, UnlearningMethod


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How an original model is trained, and a retrained one again.

  Attributes:
    epochs: passes over the training set.
    batch_size: examples a step.
    learning_rate: the peak, after warm-up.
    warmup_fraction: share of the steps in which the rate grows from 0.
    weight_decay: of AdamW, on kernels alone.
    clip_norm: bound on the norm of the batch gradient.
    max_shift_ms: largest time shift, either way.
    time_mask_ms: largest width of the time mask.
    frequency_mask_bins: largest width of the frequency mask.
  """

  epochs: int = 30
  batch_size: int = 100
  learning_rate: float = 1e-2
  warmup_fraction: float = 0.1
  weight_decay: float = 1e-2
  clip_norm: float = 1.0
  max_shift_ms: float = 100.0
  time_mask_ms: float = 200.0
  frequency_mask_bins: int = 8

  def optimizer(self) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay, after clipping.

    The number of steps is a hyper-parameter in the state, `total_steps`: set
    it with `optax.tree_utils.tree_set` before the first step. So one compiled
    program trains on sets of every size.
    """
    return optax.inject_hyperparams(self._transform)(total_steps=1.0)

  def _transform(self, total_steps):
    def schedule(count):
      warmup = jnp.maximum(self.warmup_fraction * total_steps, 1.0)
      decay = (count - warmup) / jnp.maximum(total_steps - warmup, 1.0)
      cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(decay, 0.0, 1.0)))
      return self.learning_rate * jnp.minimum((count + 1) / warmup, cosine)

    adamw = optax.adamw(
      schedule, weight_decay=self.weight_decay, mask=_is_kernel
    )
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)


def _is_kernel(params):
  return jax.tree.map(lambda x: x.ndim > 1, params)


def descend(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  augment_fn: AugmentFn | None = None,
) -> UnlearningMethod:
  """Training in the shape of a method: it reads its retain batches alone."""

  def init_fn(params, key):
    del key
    return tx.init(params)

  def update_fn(params, state, forget, retain, key):
    del forget
    batch = retain if augment_fn is None else augment_fn(key, retain)

    def objective(params):
      return masked_mean(loss_fn(params, batch), batch['mask'])

    loss, gradient = jax.value_and_grad(objective)(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, {'retain_loss': loss}

  return UnlearningMethod(init_fn, update_fn)
