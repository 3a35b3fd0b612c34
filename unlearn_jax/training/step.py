r"""Training: descend the mean loss of augmented batches.

.. math:: \theta \leftarrow \theta - tx(\nabla E_{batch}[l_i(\theta)])
"""

import jax
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import AugmentFn, LossFn, UnlearningMethod


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
    batch = fill_padding(retain)
    if augment_fn is not None:
      batch = augment_fn(key, batch)

    def objective(params):
      return masked_mean(loss_fn(params, batch), batch['mask'])

    loss, gradient = jax.value_and_grad(objective)(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, {'retain_loss': loss}

  return UnlearningMethod(init_fn, update_fn, needs=frozenset({'retain'}))
