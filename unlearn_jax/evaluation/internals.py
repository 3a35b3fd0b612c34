"""Metrics that take the models themselves: layers, weights, relearning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.evaluation import representation
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.relearn import Relearning
from unlearn_jax.types import Params

MOST_EXAMPLES = 500  # Of each set, for alignments: enough for 48 channels.
_RELEARNT = 0.95  # Of the original model's forget accuracy.

# Maps parameters and the name of a set to activations [n, features] by layer.
Layers = Callable[[Params, str], Mapping[str, np.ndarray]]


def internals(
  models: Mapping[tuple[str, int], Params],
  retrained: Sequence[tuple[str, int]],
  layers: Layers | None = None,
  relearn: Callable[[Params], Relearning] | None = None,
) -> dict[tuple[str, int], dict[str, float]]:
  """Measures all models of one seed.

  Args:
    models: parameters by (method, replicate); ('original', 0) is the model
      before unlearning, without which some metrics are left out.
    retrained: which of them are the reference. One of them is compared with
      the others, and with none if it is alone.
    layers: gives activations on 'forget' and 'retain'; None leaves alignments
      out.
    relearn: learns the forget set again; None leaves it out.

  Returns:
    of each model, values by the names in `metrics`.
  """
  before = (ORIGINAL, 0)
  seen: dict[tuple[str, int], Any] = {}
  if layers is not None:
    seen = {
      name: {part: layers(params, part) for part in ('forget', 'retain')}
      for name, params in models.items()
    }
  relearning: dict[tuple[str, int], Relearning] = {}
  bar = float('nan')
  if relearn is not None:
    relearning = {name: relearn(params) for name, params in models.items()}
    if before in relearning:
      bar = _RELEARNT * float(relearning[before].accuracy[0])
  found = {}
  for name, params in models.items():
    others = [r for r in retrained if r != name]
    values: dict[str, float] = {}
    if others:
      values['distance.weights'] = float(
        np.mean(
          [
            representation.weight_distance(params, models[r]).total
            for r in others
          ]
        )
      )
    if name in seen:
      values |= _alignments('retrain', seen[name], [seen[r] for r in others])
      if before in seen:
        values |= _alignments('original', seen[name], [seen[before]])
    if name in relearning:
      values['relearn.loss_area'] = relearning[name].loss_area()
      if not np.isnan(bar):
        values['relearn.steps'] = float(relearning[name].steps_to(bar))
    found[name] = values
  return found


def _alignments(whose, own, others):
  """Returns the mean alignment of each layer with `others`."""
  if not others:
    return {}
  return {
    f'cka.{whose}.{part}.{layer}': float(
      np.mean(
        [representation.linear_cka(x, other[part][layer]) for other in others]
      )
    )
    for part, by_layer in own.items()
    for layer, x in by_layer.items()
  }
