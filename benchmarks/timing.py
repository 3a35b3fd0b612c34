"""Times candidates side by side in one run."""

from collections.abc import Callable, Mapping
import time
from typing import Any

import numpy as np

Candidate = Callable[[], Any]


def measure(
  candidates: Mapping[str, Candidate], repeats: int
) -> dict[str, list[float]]:
  """Times candidates in turn, in s, each time right after an untimed call.

  For a library's threads spin for a while after its last call, on the cores
  of whoever comes next, and its memory has pushed theirs out of the caches.
  """
  times: dict[str, list[float]] = {name: [] for name in candidates}
  for _ in range(repeats):
    for name, candidate in candidates.items():
      candidate()
      start = time.perf_counter()
      candidate()
      times[name].append(time.perf_counter() - start)
  return times


def print_table(
  times: Mapping[str, list[float]],
  reference: str,
  compile_s: Mapping[str, float],
) -> None:
  """Prints medians, their range, and each as a multiple of the reference."""
  median = {name: float(np.median(t)) for name, t in times.items()}
  for name, t in times.items():
    compiled = f'   compile {compile_s[name]:.2f}' if name in compile_s else ''
    print(
      f'{name:36}{median[name]:8.4f} s ({min(t):.4f} to {max(t):.4f})'
      f'{median[name] / median[reference]:7.2f} x {reference}{compiled}'
    )
