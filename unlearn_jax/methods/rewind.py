"""Rewind: go back to the epoch that forgets as much as unseen data.

Of the models after each epoch it takes the one whose error on the forget set is
nearest to the error of the final model on held-out examples of the same
classes, so that forgetting does not show by its excess. The second part of
SCRUB+R, for any rule. Data: what the rule needs, and the held-out examples.

References:
  Kurmanji et al., 2023, https://arxiv.org/abs/2302.09880, section 3.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.training import loop
from unlearn_jax.types import Batch, Params, UnlearningMethod


def rewind(forget_errors: np.ndarray, held_out_error: float | None) -> int:
  """Returns the index of the epoch to go back to; of equal ones the earliest.

  Args:
    forget_errors: [epochs] error on the forget set after each epoch, in [0, 1].
    held_out_error: error of the final model on held-out examples with the
      class mix of the forget set, in [0, 1].

  Raises:
    ValueError: without a held-out error, or without any epoch.

  >>> rewind(np.array([0.0, 0.3, 0.9]), held_out_error=0.2)
  1
  """
  if held_out_error is None:
    raise ValueError('rewind needs the error on held-out examples, got None.')
  if len(forget_errors) == 0:
    raise ValueError('rewind needs at least one epoch, got none.')
  distance = np.abs(np.asarray(forget_errors, np.float64) - held_out_error)
  return int(np.argmin(distance.round(12)))  # Ties are ties.


def run_with_rewind(
  method: UnlearningMethod,
  state: loop.RunState,
  epochs: Iterable[tuple[Any, Any]],
  examples: Batch | None = None,
  *,
  forget_error_fn: Callable[[Params], float],
  held_out_error_fn: Callable[[Params], float] | None,
) -> tuple[Params, int]:
  """Runs a method for some epochs, and goes back to one of them.

  Args:
    method: any rule.
    state: from `loop.init`, and `loop.prepare` where the rule has it; it is
      left usable.
    epochs: the stacked forget and retain batches of each epoch, as `loop.run`
      takes them; at least one epoch. The parameters after each are kept.
    examples: arrays [examples, ...] that `IndexBatches` point into.
    forget_error_fn: maps parameters to the error on the forget set, in [0, 1].
    held_out_error_fn: likewise, on held-out examples with the class mix of the
      forget set; it is asked for the final model.

  Returns:
    the parameters that were chosen, and their epoch, from 0.

  Raises:
    ValueError: without held-out examples (None), or without any epoch.
  """
  if held_out_error_fn is None:
    raise ValueError('rewind needs the error on held-out examples, got None.')
  state = jax.tree.map(jnp.copy, state)  # The loop donates its state.
  kept: list[Params] = []
  for forget, retain in epochs:
    state, _ = loop.run(method, state, forget, retain, examples)
    kept.append(jax.tree.map(jnp.copy, state.params))
  errors = [float(forget_error_fn(params)) for params in kept]
  held_out = float(held_out_error_fn(kept[-1])) if kept else 0.0
  epoch = rewind(np.asarray(errors), held_out)
  return kept[epoch], epoch
