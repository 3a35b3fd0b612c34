r"""SISA: train in shards and slices, so that a deletion retrains little of it.

S models are each trained on a shard of the data, in R stages over growing
slices of it, with a checkpoint before each stage. The answer is the mean of
their probabilities. A deletion takes each touched shard back to the checkpoint
before the first slice that it touches, and trains from there without what is
deleted. That is exact: what comes out is, bit for bit, what training without
the deleted examples from the start would have given. It needs a model that was
trained so, and a share of its accuracy: each model sees a part of the data.

Speech is best sharded by speaker, so that one speaker touches one shard.

Not a row of the registry, since it does not start from one model's parameters.

References:
  Bourtoule et al., 2021, https://arxiv.org/abs/1912.03817, section IV.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import (
  Batch,
  InitParamsFn,
  Params,
  PredictFn,
  UnlearningMethod,
)


class Plan(NamedTuple):
  """Where every training example stands.

  Attributes:
    rows: [n] int, of the examples; unique.
    shard: [n] int, from 0 to `shards` - 1.
    part: [n] int, the slice inside the shard, from 0 to `slices` - 1.
    shards: S.
    slices: R.
  """

  rows: np.ndarray
  shard: np.ndarray
  part: np.ndarray
  shards: int
  slices: int

  def without(self, rows: np.ndarray) -> 'Plan':
    """Returns the plan without some rows; the others stay where they are."""
    keep = ~np.isin(self.rows, rows)
    return self._replace(
      rows=self.rows[keep], shard=self.shard[keep], part=self.part[keep]
    )

  def stage(self, shard: int, last: int) -> np.ndarray:
    """Returns the rows of the first slices of a shard, up to `last`."""
    return self.rows[(self.shard == shard) & (self.part <= last)]


class SisaConfig(NamedTuple):
  """How each stage is trained.

  Attributes:
    epochs: passes over the slices of a stage.
    batch_size: examples a step.
    seed: of the order of examples.
  """

  epochs: int
  batch_size: int
  seed: int = 0


class SisaModel(NamedTuple):
  """S models, with what a deletion needs.

  Attributes:
    stages: of every shard, R + 1 parameters: before the first stage, and after
      each.
    plan: what they were trained on.
    examples_seen: examples that went forward and backward to make it.
  """

  stages: tuple[tuple[Params, ...], ...]
  plan: Plan
  examples_seen: int

  def params(self) -> list[Params]:
    """Returns the finished model of every shard."""
    return [of_shard[-1] for of_shard in self.stages]


def make_plan(
  rows: np.ndarray, groups: np.ndarray, *, shards: int, slices: int, seed: int
) -> Plan:
  """Deals groups out to shards, and their members to slices.

  Groups come in random order, each into the shard that is the smallest so far,
  and into the slice of it that is the smallest.

  Args:
    rows: [n] int, of the examples.
    groups: [n] of each row, such as its speaker; or the rows themselves.
    shards: S, from 1 to the number of groups.
    slices: R, at least 1.
    seed: of the order.

  Raises:
    ValueError: if a number is out of bounds.
  """
  names, group = np.unique(groups, return_inverse=True)
  if not 1 <= shards <= len(names):
    raise ValueError(f'shards must be in [1, {len(names)}], got {shards}.')
  if slices < 1:
    raise ValueError(f'slices must be >= 1, got {slices}.')
  sizes = np.zeros((shards, slices), int)
  shard, part = np.zeros((2, len(rows)), int)
  for g in np.random.default_rng(seed).permutation(len(names)):
    members = group == g
    s = int(sizes.sum(1).argmin())
    r = int(sizes[s].argmin())
    sizes[s, r] += members.sum()
    shard[members], part[members] = s, r
  return Plan(np.asarray(rows), shard, part, shards, slices)


def train(
  method: UnlearningMethod,
  init_fn: InitParamsFn,
  examples: Batch,
  plan: Plan,
  config: SisaConfig,
  key: jax.Array,
) -> SisaModel:
  """Trains every stage of every shard.

  Args:
    method: `training.step.descend` of the training recipe.
    init_fn: maps a key to fresh parameters.
    examples: arrays [examples, ...] that the plan's rows point into.
    plan: from `make_plan`.
    config: of the stages.
    key: of the initial parameters and of augmentation.
  """
  fresh = [(init_fn(jax.random.fold_in(key, s)),) for s in range(plan.shards)]
  return _train_from(method, examples, plan, config, key, fresh)


def forget(
  method: UnlearningMethod,
  examples: Batch,
  model: SisaModel,
  rows: np.ndarray,
  config: SisaConfig,
  key: jax.Array,
) -> SisaModel:
  """Deletes rows: retrains what they touched, with the key of the training.

  Args:
    method: as in `train`.
    examples: as in `train`.
    model: as it was trained; left as it is.
    rows: [n] int to forget; those that are not in the plan are ignored.
    config: as in `train`.
    key: as in `train`.

  Returns:
    the model; `examples_seen` counts the retraining alone.
  """
  plan = model.plan
  gone = np.isin(plan.rows, rows)
  kept = []
  for s, of_shard in enumerate(model.stages):
    touched = plan.part[gone & (plan.shard == s)]
    first = touched.min() if touched.size else plan.slices
    kept.append(of_shard[: first + 1])
  return _train_from(method, examples, plan.without(rows), config, key, kept)


def _train_from(method, examples, plan, config, key, kept):
  """Trains the stages that are not in `kept`."""
  stages, seen = [], 0
  for s, of_shard in enumerate(kept):
    done = list(of_shard)
    for r in range(len(done) - 1, plan.slices):
      rows = np.sort(plan.stage(s, r))
      stage_key = jax.random.fold_in(jax.random.fold_in(key, s), r)
      done.append(
        _train_stage(
          method, examples, rows, config, stage_key, done[-1], (s, r), plan
        )
      )
      seen += config.epochs * len(rows)
    stages.append(tuple(done))
  return SisaModel(tuple(stages), plan, seen)


def _train_stage(method, examples, rows, config, key, params, place, plan):
  """Trains one stage: a function of its rows, its place and its start alone."""
  state = loop.init(method, params, key)
  per_epoch = -(-len(rows) // config.batch_size)
  state = set_total_steps(state, config.epochs * per_epoch)
  # One compiled program: steps of padding are skipped.
  width = -(-len(plan.rows) // config.batch_size)
  for epoch in range(config.epochs):
    rng = np.random.default_rng([config.seed, *place, epoch])
    order = batches.one_pass(rows, config.batch_size, rng)
    padded = batches.pad_steps(order, width)
    state, _ = loop.run(method, state, None, padded, examples)
  return state.params


def log_probabilities(
  predict_fn: PredictFn, model: SisaModel, batch: Batch
) -> jax.Array:
  """Returns the logarithm of the mean probability, [batch, classes]."""
  each = [
    jax.nn.log_softmax(predict_fn(params, batch)) for params in model.params()
  ]
  mean = jax.nn.logsumexp(jnp.stack(each), 0)
  return mean - jnp.log(float(len(each)))
