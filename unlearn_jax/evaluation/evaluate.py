"""Scores models from anywhere: a predict function and parameters are enough."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.evaluation import internals as internals_lib
from unlearn_jax.evaluation import relearn as relearn_lib
from unlearn_jax.evaluation.cards import make_cards
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.outcome import SETS
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.types import Batch, InitParamsFn, LossFn, Params, PredictFn

_UNTRAINED, _BATCH_SIZE = 10, 250


def evaluate(
  predict_fn: PredictFn,
  models: Mapping[str, Params],
  sets: Mapping[str, Batch],
  *,
  retrained: Sequence[Params],
  original: Params | None = None,
  forgotten_classes: Sequence[int] = (),
  properties: Sequence[str] = (),
  costs: Mapping[str, Mapping[str, float]] | None = None,
  loss_fn: LossFn | None = None,
  init_fn: InitParamsFn | None = None,
  layers_fn: Any = None,
) -> list[MetricCard]:
  """Sets unlearned models beside retrained ones by every metric of one model.

  Nothing is changed: fine-tuning for the relearn time works on copies.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    models: unlearned parameters, by the name of the method.
    sets: 'forget', 'retain', 'test' and, if there is one, 'validation': each a
      batch of arrays [n, ...] with its `label` [n].
    retrained: parameters of models trained without the forget set, at least
      one; from two on there are noise floors and ideals of distances.
    original: parameters before unlearning, for the metrics that take them.
    forgotten_classes: classes that were removed whole; they are no part of test
      accuracy.
    properties: names in the batches, besides the label, that non-members of an
      attack share with members, for instance 'speaker'. The models do not see
      them, so they may be strings.
    costs: by method, among them `run_s`, seconds.
    loss_fn: maps (params, batch) to losses [batch]; gives the relearn metrics.
    init_fn: maps a key to fresh parameters; gives ZRF.
    layers_fn: maps (params, batch) to activations [batch, features] by layer;
      gives the alignments.

  Returns:
    the cards of 'original', 'retrain' and every model.

  Raises:
    ValueError: in one line: if a set or the retrained models are missing, the
      forget set is empty, a label is out of range, logits are not finite or of
      another shape, or a model is named as the references are.
  """
  _check(models, sets, retrained)
  inputs = {
    name: {key: x for key, x in batch.items() if key not in properties}
    for name, batch in sets.items()
  }
  logits_of = functools.partial(_logits, jax.jit(predict_fn), inputs)
  params: dict[tuple[str, int], Params] = {}
  if original is not None:
    params[ORIGINAL, 0] = original
  params |= {(RETRAIN, i): p for i, p in enumerate(retrained)}
  params |= {(name, 0): p for name, p in models.items()}
  logits = {name: logits_of(p, name[0]) for name, p in params.items()}
  classes = logits[RETRAIN, 0]['forget'].shape[1]
  untrained = None
  if init_fn is not None:
    fresh = [init_fn(jax.random.key(i)) for i in range(_UNTRAINED)]
    untrained = np.stack([logits_of(p, 'init_fn')['forget'] for p in fresh])
  inner = internals_lib.internals(
    params,
    [name for name in params if name[0] == RETRAIN],
    None if layers_fn is None else _layers(layers_fn, inputs),
    None if loss_fn is None else _relearn(loss_fn, predict_fn, inputs),
  )
  outcomes = [
    Outcome(
      method=method,
      seed=0,
      replicate=replicate,
      logits=found,
      curves={},
      cost=dict((costs or {}).get(method, {})),
      inner=inner[method, replicate],
    )
    for (method, replicate), found in logits.items()
  ]
  subsets = Subsets(
    labels={name: _column(sets, name, 'label') for name in SETS},
    class_names=tuple(map(str, range(classes))),
    forgotten_classes=tuple(forgotten_classes),
    properties={
      p: {name: _column(sets, name, p) for name in SETS} for p in properties
    },
    untrained=untrained,
  )
  return make_cards(outcomes, {0: subsets})


def _check(models, sets, retrained):
  missing = {'forget', 'retain', 'test'} - set(sets)
  if missing or set(sets) - set(SETS):
    raise ValueError(
      f'sets must be forget, retain, test and at most validation, got '
      f'{", ".join(sorted(sets)) or "none"}.'
    )
  if not retrained:
    raise ValueError('retrained must hold at least one model, got none.')
  if bad := {RETRAIN, ORIGINAL} & set(models):
    raise ValueError(
      f'models must not be named {RETRAIN} or {ORIGINAL}, got {bad.pop()}.'
    )
  for name, batch in sets.items():
    lengths = {len(x) for x in batch.values()}
    if 'label' not in batch or len(lengths) != 1:
      raise ValueError(
        f'the {name} set must hold a label and arrays of one length, got '
        f'{", ".join(sorted(batch))} of {sorted(lengths)}.'
      )
  if not len(sets['forget']['label']):
    raise ValueError('the forget set must not be empty, got no example.')


def _column(sets, name, column):
  """Returns a column of a set; an absent set is empty."""
  return np.asarray(sets[name][column]) if name in sets else np.zeros(0, int)


def _logits(predict, sets, params, name):
  """Returns the logits of a model on all sets, in batches of one shape."""
  found = {}
  for part, batch in sets.items():
    count = len(batch['label'])
    pieces = []
    for start in range(0, count, _BATCH_SIZE):
      rows = np.minimum(np.arange(start, start + _BATCH_SIZE), count - 1)
      piece = {key: jnp.asarray(x[rows]) for key, x in batch.items()}
      piece.setdefault('mask', jnp.ones(_BATCH_SIZE, jnp.float32))
      logits = np.asarray(predict(params, piece), np.float32)
      if logits.ndim != 2 or len(logits) != _BATCH_SIZE:
        raise ValueError(
          f'{name}: logits must be [batch, classes], got {logits.shape} '
          f'for a batch of {_BATCH_SIZE}.'
        )
      pieces.append(logits[: count - start])
    joined = np.concatenate(pieces) if pieces else None
    if joined is not None and (bad := (~np.isfinite(joined)).any(1).sum()):
      raise ValueError(
        f'{name}: logits on the {part} set must be finite, got {bad} of '
        f'{count} examples that are not.'
      )
    found[part] = joined
  classes = found['forget'].shape[1]
  none = np.zeros((0, classes), np.float32)
  return {
    part: none if found.get(part) is None else found[part] for part in SETS
  }


def _layers(layers_fn, sets):
  """Returns what `internals` takes: at most as many examples as it wants."""
  layers = jax.jit(layers_fn)

  def of(params, part):
    batch = sets[part]
    every = max(1, -(-len(batch['label']) // internals_lib.MOST_EXAMPLES))
    some = {name: jnp.asarray(x[::every]) for name, x in batch.items()}
    return jax.tree.map(np.asarray, layers(params, some))

  return of


def _relearn(loss_fn, predict_fn, sets):
  forget = {name: jnp.asarray(x) for name, x in sets['forget'].items()}
  relearn = relearn_lib.make_relearn(loss_fn, predict_fn)
  return functools.partial(relearn, forget=forget)
