"""Which rows a method sees when: batches of one epoch of unlearning.

Every method takes a forget and a retain batch at each step. These functions
lay the sets out so: side by side (`joint`), or one after the other
(`alternate`), where the set that a step leaves out is padding alone.
"""

import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches


def joint(
  forget: np.ndarray | None,
  retain: np.ndarray | None,
  *,
  forget_batch: int,
  retain_batch: int,
  rng: np.random.Generator,
) -> tuple[IndexBatches | None, IndexBatches | None]:
  """One pass over the longer set, beside as many passes over the shorter.

  Args:
    forget: [n] rows; None for a method that needs none.
    retain: [n] rows; None for a method that needs none.
    forget_batch: examples a step.
    retain_batch: examples a step.
    rng: shuffles both.
  """
  sizes = ((forget, forget_batch), (retain, retain_batch))
  steps = max(-(-len(rows) // b) for rows, b in sizes if rows is not None)

  def side(rows, batch_size):
    if rows is None:
      return None
    if -(-len(rows) // batch_size) == steps:
      return batches.one_pass(rows, batch_size, rng)
    return batches.repeat(rows, batch_size, steps, rng)

  return side(forget, forget_batch), side(retain, retain_batch)


def alternate(
  forget: np.ndarray,
  retain: np.ndarray,
  *,
  forget_batch: int,
  retain_batch: int,
  rng: np.random.Generator,
) -> tuple[IndexBatches, IndexBatches]:
  """One pass over the forget set, then one over the retain set.

  Args:
    forget: [n] rows; may be empty.
    retain: [n] rows.
    forget_batch: examples a step.
    retain_batch: examples a step.
    rng: shuffles both.
  """
  first = batches.one_pass(forget, forget_batch, rng)
  second = batches.one_pass(retain, retain_batch, rng)
  steps = len(first.rows), len(second.rows)
  return (
    batches.concatenate(
      [first, batches.empty(steps[1], forget_batch)], forget_batch
    ),
    batches.concatenate(
      [batches.empty(steps[0], retain_batch), second], retain_batch
    ),
  )
