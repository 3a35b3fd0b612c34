"""How soon a copy of a model learns the forget set again.

Knowledge that was only hidden comes back in a few steps; a model that never saw
the examples needs as many as a retrained one.

Source: Chundawat et al., "Zero-Shot Machine Unlearning", 2023,
https://arxiv.org/abs/2201.05629 (the anamnesis index, there in epochs).
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.types import Batch, LossFn, Params, PredictFn

LEARNING_RATE, BATCH_SIZE, MAX_STEPS = 1e-3, 50, 100
_OFFSET = 0.01


class Relearning(NamedTuple):
  """How a model learns again.

  Attributes:
    accuracy: on the forget set after each step, [steps + 1], the first before
      any.
    loss: mean over the forget set, nats, likewise.
  """

  accuracy: np.ndarray
  loss: np.ndarray

  def steps_to(self, bar: float) -> int:
    """Returns the first step whose accuracy is at least `bar`.

    The last one where it is not reached: look at `accuracy` to tell.
    """
    above = np.flatnonzero(self.accuracy >= bar)
    return int(above[0]) if len(above) else len(self.accuracy) - 1

  def loss_area(self) -> float:
    """Returns the mean loss over all steps, for sets that start above the bar.

    On a random forget set a retrained model knows most answers already, and
    the steps say nothing.
    """
    return float(self.loss.mean())


def make_relearn(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  tx: optax.GradientTransformation | None = None,
) -> Callable[..., Relearning]:
  """Returns a function that fine-tunes a copy; compiled once a shape.

  Args:
    loss_fn: maps (params, batch) to losses [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    tx: the optimizer; None is Adam at 1e-3.

  Returns:
    `relearn(params, forget, *, steps, batch_size, seed)`, where `forget` is a
    batch of the whole forget set with its `label`, and the result is a
    `Relearning`. `params` are left as they are. ValueError for an empty forget
    set, fewer than one step, or a batch size below 1.
  """
  tx = optax.adam(LEARNING_RATE) if tx is None else tx

  def observe(params, forget):
    right = predict_fn(params, forget).argmax(-1) == forget['label']
    return right.mean(), loss_fn(params, forget).mean()

  @functools.partial(jax.jit)
  def run(params, forget, rows):
    def step(carry, mine):
      params, state = carry
      batch = {name: x[mine] for name, x in forget.items()}
      grads = jax.grad(lambda p: loss_fn(p, batch).mean())(params)
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), observe(params, forget)

    _, after = jax.lax.scan(step, (params, tx.init(params)), rows)
    before = observe(params, forget)
    return [jnp.append(b, a) for b, a in zip(before, after, strict=True)]

  def relearn(
    params: Params,
    forget: Batch,
    *,
    steps: int = MAX_STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
  ) -> Relearning:
    count = len(forget['label'])
    if not count:
      raise ValueError('the forget set must not be empty, got no example.')
    if steps < 1 or batch_size < 1:
      raise ValueError(
        f'steps and batch_size must be >= 1, got {steps} and {batch_size}.'
      )
    forget = dict(forget, mask=jnp.ones(count, jnp.float32))
    size = min(batch_size, count)
    rng = np.random.default_rng(seed)
    passes = -(-steps * size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    rows = order[: steps * size].reshape(steps, size)
    accuracy, loss = run(params, forget, rows)
    return Relearning(np.asarray(accuracy, float), np.asarray(loss, float))

  return relearn


def anamnesis_index(steps: float, steps_retrained: float) -> float:
  """AIN: relearning steps over those of a retrained model, each plus 0.01.

  >>> round(anamnesis_index(2, 5), 6)
  0.401198

  In (0, inf); 1 is ideal. Below 1 traces remain; above 1 the model has
  forgotten too much.

  Args:
    steps: of the unlearned model, at least 0.
    steps_retrained: of the retrained model, at least 0.
  """
  return (steps + _OFFSET) / (steps_retrained + _OFFSET)
