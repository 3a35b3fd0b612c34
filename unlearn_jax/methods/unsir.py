r"""UNSIR: impair a class with noise that the model gets wrong, then repair.

.. math::
  n^* &= \arg\min_n -l(n, y_f; \theta_o) + w ||u||_2^2,
    \quad n = \mu_r + \sigma_r u \\
  J_{impair} &= E_{(n^*, y_f)}[l_i] + E_r[l_i], \quad J_{repair} = E_r[l_i]

Data: of the forget set the labels alone, its inputs are never read; the retain
set, of which a subset will do. The noise is made once, at the original model,
for a fixed number of examples with labels drawn from the forget set. It starts
as normal noise with the mean and the deviation of each bin of the retain set.
Decay w and learning rate are in units of that deviation, u: so they mean what
they mean for images that were standardised, and w does not pull log-mels
towards 0.

A step impairs where its forget batch has examples, whose rows the noise stands
in for, and repairs where that is all padding: so after the epochs in which the
forget set takes part, the epochs without it repair. The update of a repair step
is scaled by `repair_scale`, the ratio of the two learning rates of the source.

The objective of the noise is the cross-entropy. To maximise a squared error in
its place is another rule.

References:
  Tarun et al., 2023, https://arxiv.org/abs/2111.08947.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.methods import inputs
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod

_NOISE = 2**32 - 1  # A stream of random numbers apart from those of the steps.


class UnsirState(NamedTuple):
  """State of UNSIR.

  Attributes:
    optimizer: state of the optax transform.
    hyper: `noise_learning_rate`, `noise_decay` and `repair_scale`.
    noise: [noise examples, ...] inputs; None until `prepare` has made them.
    label: [noise examples] int, theirs; likewise.
  """

  optimizer: optax.OptState
  hyper: dict[str, jax.Array]
  noise: jax.Array | None = None
  label: jax.Array | None = None


def draw_labels(
  key: jax.Array, forget: Any, examples: Batch | None, count: int
) -> jax.Array:
  """Draws labels as often as they occur in the forget set, [count] int.

  Args:
    key: of the draw.
    forget: stacked batches; `label` alone is read.
    examples: what `IndexBatches` point into.
    count: how many to draw, with replacement.
  """
  if isinstance(forget, batches.IndexBatches):
    label, mask = (examples or {})['label'][forget.rows], forget.mask
  else:
    label, mask = forget['label'], forget['mask']
  weight = (jnp.asarray(mask) > 0).astype(jnp.float32).ravel()
  # Where nothing counts, no step impairs, and any label will do.
  weight = jnp.where(weight.sum() > 0, weight, 1.0)
  return jax.random.choice(key, label.ravel(), (count,), p=weight)


def make_noise(
  params: Params,
  start: jax.Array,
  label: jax.Array,
  moments: tuple[jax.Array, jax.Array],
  *,
  loss_fn: LossFn,
  input_name: str,
  steps: int,
  noise_learning_rate: jax.typing.ArrayLike,
  noise_decay: jax.typing.ArrayLike,
) -> jax.Array:
  """Returns inputs [n, ...] that the model gets as wrong as it can.

  Every example goes its own way, whatever their number.

  Args:
    params: of the original model.
    start: [n, ..., bins], the noise u before its first step.
    label: [n] int, classes to be forgotten.
    moments: mean and standard deviation of the inputs, [bins] each.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    input_name: of the network's input in a batch.
    steps: of Adam, at least 0.
    noise_learning_rate: of Adam.
    noise_decay: w in the formula, at least 0.
  """
  mean, std = (inputs.along_last_axis(m, start.ndim) for m in moments)
  rest = {
    'label': label,
    'id': jnp.arange(len(label)),
    'mask': jnp.ones(len(label)),
  }

  def objective(u):
    losses = loss_fn(params, {**rest, input_name: mean + std * u})
    return noise_decay * jnp.square(u).sum() - losses.sum()

  adam = optax.adam(noise_learning_rate)

  def step(carry, _):
    u, state = carry
    updates, state = adam.update(jax.grad(objective)(u), state)
    return (optax.apply_updates(u, updates), state), None

  carry = start, adam.init(start)
  (u, _), _ = jax.lax.scan(step, carry, length=steps)
  return mean + std * u


def stand_in(
  forget: Batch,
  noise: jax.Array,
  label: jax.Array,
  input_name: str,
  key: jax.Array,
) -> Batch:
  """Returns the forget batch with noise in the place of its examples.

  Its rows take neighbours in the noise, from a row that the key draws.
  """
  first = jax.random.randint(key, (), 0, len(noise))
  place = jnp.cumsum(forget['mask'] > 0) - 1  # Padding moves no other row.
  rows = (first + place) % len(noise)
  return {**forget, input_name: noise[rows], 'label': label[rows]}


def unsir_direction(
  params: Params, noise: Batch, retain: Batch, *, loss_fn: LossFn
) -> tuple[Params, Metrics]:
  """Returns the gradient of J; a batch of padding alone drops its half.

  Args:
    params: any pytree of arrays.
    noise: batch of noise under the labels to be forgotten.
    retain: batch of the retain set, of its own size.
    loss_fn: maps (params, batch) to one loss per example, [batch].
  """
  noise, retain = fill_padding(noise), fill_padding(retain)

  def objective(params):
    def mean_loss(batch):
      def evaluate():
        return masked_mean(loss_fn(params, batch), batch['mask'])

      return base.if_any(batch['mask'], evaluate)

    losses = {'noise_loss': mean_loss(noise), 'retain_loss': mean_loss(retain)}
    return losses['noise_loss'] + losses['retain_loss'], losses

  return jax.grad(objective, has_aux=True)(params)


def unsir(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  input_name: str = 'features',
  noise_examples: int = 64,
  noise_steps: int = 40,
  noise_learning_rate: float = 0.1,
  noise_decay: float = 0.1,
  repair_scale: float = 0.5,
) -> UnlearningMethod:
  """UNSIR as an `UnlearningMethod`; `training.loop.prepare` makes the noise.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform, at the learning rate of the impair steps.
    input_name: of the network's input in a batch, [batch, ..., bins].
    noise_examples: how many to make, at least 1; memory grows with it.
    noise_steps: steps of Adam on the noise, at least 0.
    noise_learning_rate: of Adam, in standard deviations, at least 0.
    noise_decay: w in the formula, at least 0.
    repair_scale: the learning rate of repair steps over that of impair steps,
      at least 0.

  Raises:
    ValueError: if an option is out of bounds, or a step comes before `prepare`.
  """
  base.check_range('noise_examples', noise_examples, 1)
  base.check_range('noise_steps', noise_steps, 0)
  hyper = _hyper(noise_learning_rate, noise_decay, repair_scale)

  def init_fn(params, key):
    del key
    return UnsirState(tx.init(params), jax.tree.map(jnp.float32, hyper))

  def prepare_fn(params, state, forget, retain, examples, key):
    keys = jax.random.split(jax.random.fold_in(key, _NOISE))
    label = draw_labels(keys[0], forget, examples, noise_examples)
    shape = noise_examples, *inputs.input_shape(retain, examples, input_name)
    noise = make_noise(
      params,
      jax.random.normal(keys[1], shape),
      label,
      inputs.moments(retain, examples, input_name),
      loss_fn=loss_fn,
      input_name=input_name,
      steps=noise_steps,
      noise_learning_rate=state.hyper['noise_learning_rate'],
      noise_decay=state.hyper['noise_decay'],
    )
    return params, state._replace(noise=noise, label=label)

  def update_fn(params, state, forget, retain, key):
    if state.noise is None:
      raise ValueError('unsir needs `loop.prepare` before its first step.')
    noise = stand_in(forget, state.noise, state.label, input_name, key)
    direction, metrics = unsir_direction(params, noise, retain, loss_fn=loss_fn)
    return *_follow(tx, direction, params, state, forget), metrics

  return UnlearningMethod(
    init_fn, update_fn, prepare_fn, frozenset({'forget', 'retain'})
  )


def _hyper(noise_learning_rate, noise_decay, repair_scale):
  hyper = {
    'noise_learning_rate': noise_learning_rate,
    'noise_decay': noise_decay,
    'repair_scale': repair_scale,
  }
  for name, value in hyper.items():
    base.check_range(name, value, 0.0)
  return hyper


def _follow(tx, direction, params, state, forget):
  """Takes the step, scaled where there is no forget example."""
  updates, optimizer = tx.update(direction, state.optimizer, params)
  repair_scale = state.hyper['repair_scale']
  scale = jnp.where(forget['mask'].sum() > 0, 1.0, repair_scale)
  updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
  params = optax.apply_updates(params, updates)
  return params, state._replace(optimizer=optimizer)
