"""What a run has measured so far, and its latest checkpoint."""

from collections.abc import Mapping
import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

from unlearn_jax.training import checkpoint


@dataclasses.dataclass
class Progress:
  """What a run has measured so far; JSON can hold it.

  Of several runs as one program, see `populations.members`, each value of a
  curve is a list with that of each, and all else is of them together.

  Attributes:
    curves: values after each epoch, the first before any step; after the edit
      of a rule that takes no steps.
    run_s: seconds in the compiled loop, without compiling or observing.
    wait_s: seconds of waiting for batches.
    examples: examples that went forward and backward.
    steps: optimizer steps.
    epochs: that are done.
    calls: of the compiled loop that are done of the epoch begun.
    losses: of each step of these calls.
  """

  curves: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
  run_s: float = 0.0
  wait_s: float = 0.0
  examples: int = 0
  steps: int = 0
  epochs: int = 0
  calls: int = 0
  losses: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

  def add(self, values: Mapping[str, Any]) -> None:
    """Appends one value to each curve, a number or an array [runs]."""
    for name, value in values.items():
      number = np.asarray(value, np.float64).tolist()
      self.curves.setdefault(name, []).append(number)

  def end_epoch(self) -> None:
    """Appends the means of its losses to the curves."""
    self.add(
      {
        f'train_{name}': np.asarray(values, np.float32).mean(0)
        for name, values in self.losses.items()
      }
    )
    self.epochs, self.calls, self.losses = self.epochs + 1, 0, {}


class Saver:
  """Saves a run, when it is time to, and finds it again."""

  def __init__(self, folder: pathlib.Path | None, every_s: float):
    """Opens `folder`, which need not exist; None saves nothing.

    Args:
      folder: for the latest checkpoint.
      every_s: least time between two.
    """
    self._every_s = every_s
    self._last = time.perf_counter()
    self._store = folder and checkpoint.RunCheckpoints(folder)

  def restore(self, like: Any) -> tuple[Any, Progress] | None:
    """Returns the latest tree and progress, or None where there is none yet."""
    found = self._store.restore(like) if self._store else None
    return found and (found[1], Progress(**found[2]))

  def save(self, tree: Any, progress: Progress) -> None:
    """Writes a checkpoint, unless there is one that is recent enough."""
    due = time.perf_counter() - self._last >= self._every_s
    if self._store and due:
      # A number that grows with every call, and at the end of every epoch.
      number = progress.steps + progress.epochs
      self._store.save(number, tree, dataclasses.asdict(progress))
      self._last = time.perf_counter()

  def close(self) -> None:
    """Closes the folder."""
    if self._store:
      self._store.close()
