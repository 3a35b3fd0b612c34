"""Trains and unlearns populations: in chunks, resumable, on all devices."""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import pathlib

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.populations import program
from unlearn_jax.training import checkpoint
from unlearn_jax.training import loop
from unlearn_jax.training.fit import EpochBatches
from unlearn_jax.training.fit import steps_of
from unlearn_jax.types import (
  Batch,
  InitParamsFn,
  InputError,
  Params,
  UnlearningMethod,
)

MemberBatches = Callable[[int, int], EpochBatches]


@dataclasses.dataclass(frozen=True)
class Execution:
  """How a population runs; its results do not depend on it.

  Attributes:
    chunk: members at a time, at least 1: memory grows with it, and a `kill -9`
      costs one chunk. With a mesh, a multiple of its devices.
    strategy: see `populations.program.over_members`.
    mesh: see `populations.program.make_mesh`; None is one device.
    folder: where finished chunks are kept, and found again by the same call;
      None keeps nothing. Starting parameters, seeds and batches must be the
      same; that the method and the examples are is for the caller to see to.
    on_epoch: called with the member-epochs done and those of the whole
      population, for a progress bar.
  """

  chunk: int = 8
  strategy: program.Strategy = 'auto'
  mesh: Mesh | None = None
  folder: pathlib.Path | None = None
  on_epoch: Callable[[int, int], None] | None = None

  def __post_init__(self):
    """Raises ValueError where a value is out of bounds."""
    devices = 1 if self.mesh is None else self.mesh.size
    if self.chunk < 1 or self.chunk % devices:
      raise ValueError(
        f'chunk must be a multiple of {devices} and >= 1, got {self.chunk}.'
      )


def train_population(
  method: UnlearningMethod,
  init_fn: InitParamsFn,
  training_rows: Sequence[np.ndarray],
  seeds: Sequence[int],
  examples: Batch,
  *,
  epochs: int,
  batch_size: int,
  execution: Execution = Execution(),
) -> Params:
  """Trains one model per seed, each on rows of its own.

  Args:
    method: reads retain batches, such as `training.step.descend`.
    init_fn: maps a key to fresh parameters.
    training_rows: [members] arrays of rows of `examples`, each not empty.
    seeds: [members] of the initial parameters and the order of the rows; with
      its rows, a seed decides a member.
    examples: arrays [examples, ...], which all members share.
    epochs: passes of each member over its rows, at least 1.
    batch_size: examples a step.
    execution: how to run it.

  Returns:
    parameters, NumPy arrays [members, ...]. A member that diverged has what it
    diverged to.

  Raises:
    ValueError: if the numbers of rows and seeds differ, or a set is empty.
    InputError: if the folder holds chunks of another population.
  """
  _check_sizes(seeds, training_rows=training_rows)
  if any(not len(rows) for rows in training_rows):
    raise ValueError('every member must have training rows, got none.')

  def member_batches(member, epoch):
    rng = np.random.default_rng([int(seeds[member]), epoch])
    return None, batches.one_pass(training_rows[member], batch_size, rng)

  def start(members):
    keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32)[members])
    return jax.vmap(init_fn)(keys)

  job = _Job(method, start, member_batches, None, seeds, examples, epochs)
  return job.run(execution)


def unlearn_population(
  method: UnlearningMethod,
  params: Params,
  member_batches: MemberBatches,
  seeds: Sequence[int],
  examples: Batch,
  *,
  epochs: int,
  prepare_batches: Callable[[int], EpochBatches] | None = None,
  execution: Execution = Execution(),
) -> Params:
  """Runs a method on every member, each with sets of its own.

  Args:
    method: from a factory of `methods`.
    params: leaves [members, ...]; left usable.
    member_batches: maps a member and an epoch, both from 0, to its forget and
      retain batches, for instance by `MethodSpec.epoch_batches`. It must depend
      on those alone.
    seeds: [members], of all that is random in the method.
    examples: arrays [examples, ...], which all members share.
    epochs: at least 0; 0 is enough for a method that edits in `prepare`.
    prepare_batches: maps a member to one pass over each set, for a method that
      has `prepare`.
    execution: how to run it.

  Returns:
    parameters, NumPy arrays [members, ...].

  Raises:
    ValueError: if `params` has not as many members as there are seeds, or the
      method has `prepare` and there are no batches for it.
    InputError: if the folder holds chunks of another population.
  """
  _check_sizes(seeds, params=jax.tree.leaves(params)[0])
  if method.prepare is not None and prepare_batches is None:
    raise ValueError('the method needs prepare_batches, got None.')

  def start(members):
    return jax.tree.map(lambda x: x[members], params)

  job = _Job(
    method, start, member_batches, prepare_batches, seeds, examples, epochs
  )
  return job.run(execution)


def _check_sizes(seeds, **others):
  if not len(seeds):
    raise ValueError('there must be at least one member, got no seeds.')
  for name, values in others.items():
    if len(values) != len(seeds):
      raise ValueError(
        f'{name} must have {len(seeds)} members, one a seed, got {len(values)}.'
      )


@dataclasses.dataclass(frozen=True)
class _Job:
  """One population, before it is known how it will run."""

  method: UnlearningMethod
  start: Callable[[np.ndarray], Params]
  member_batches: MemberBatches
  prepare_batches: Callable[[int], EpochBatches] | None
  seeds: Sequence[int]
  examples: Batch
  epochs: int

  def run(self, execution: Execution) -> Params:
    """Runs chunk after chunk; the last is filled up by repetition."""
    steps, digest = self._survey()
    examples = program.shard(self.examples, execution.mesh, PartitionSpec())
    finished = []
    for first in range(0, len(self.seeds), execution.chunk):
      chunk = np.arange(len(self.seeds))[first : first + execution.chunk]
      made, keep = None, execution.folder is not None
      if keep:
        description = self._description(chunk, digest)
        made = self._restore(execution, chunk, description)
      if made is None:
        made = self._run_chunk(execution, chunk, steps, examples)
        if keep:
          checkpoint.save_params(_folder(execution, chunk), made, description)
      _report(execution, (first + len(chunk)) * self.epochs, steps.size)
      finished.append(made)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *finished)

  def _survey(self):
    """Returns the steps [members, epochs], and a digest of all batches."""
    steps = np.zeros((len(self.seeds), self.epochs), np.int64)
    digest = hashlib.sha256(repr([int(s) for s in self.seeds]).encode())
    for member, row in enumerate(steps):
      if self.prepare_batches is not None:
        _update(digest, self.prepare_batches(member))
      for epoch in range(self.epochs):
        made = self.member_batches(member, epoch)
        row[epoch] = steps_of(made)
        _update(digest, made)
    return steps, digest.hexdigest()

  def _description(self, chunk, digest):
    """Returns what tells a chunk from those of other populations."""
    start = hashlib.sha256()
    _update(start, self.start(chunk))
    return {
      'population': digest,
      'start': start.hexdigest(),
      'members': [int(m) for m in chunk],
    }

  def _restore(self, execution, chunk, description):
    """Returns a finished chunk, or None."""
    folder = _folder(execution, chunk)
    if not checkpoint.is_there(folder):
      return None
    if checkpoint.describe(folder) != description:
      raise InputError(
        f'{folder}: holds members of another population; remove it, or choose '
        'another folder.'
      )
    like = jax.eval_shape(lambda: self.start(chunk))
    return jax.tree.map(np.asarray, checkpoint.load_params(folder, like))

  def _run_chunk(self, execution, chunk, steps, examples):
    """Returns the parameters of the members of `chunk`."""
    filled = np.resize(chunk, execution.chunk)
    how = {'strategy': execution.strategy, 'mesh': execution.mesh}

    def laid_out(tree):
      return program.shard(tree, execution.mesh)

    states = program.init(
      self.method,
      laid_out(self.start(filled)),
      laid_out(np.asarray(self.seeds, np.uint32)[filled]),
      laid_out(steps[filled].sum(1).astype(np.float32)),
      **how,
    )
    if self.method.prepare is not None and self.prepare_batches is not None:
      sets = _stack([self.prepare_batches(m) for m in filled])
      states = program.run(
        loop.prepare, self.method, states, *laid_out(sets), examples, **how
      )
    for epoch in range(self.epochs):
      made = [self.member_batches(m, epoch) for m in filled]
      states, _ = program.run(
        loop.run,
        self.method,
        states,
        *laid_out(_stack(made, steps.max())),
        examples,
        **how,
      )
      jax.block_until_ready(states)
      done = chunk[0] * self.epochs + (epoch + 1) * len(chunk)
      _report(execution, done, steps.size)
    params = program.gather(states.params)
    return jax.tree.map(lambda x: x[: len(chunk)], params)


def _folder(execution, chunk):
  return execution.folder / f'members_{chunk[0]}_to_{chunk[-1]}'


def _update(digest, tree):
  """Adds the arrays of a tree, and where they stand in it."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())


def _report(execution, done, total):
  if execution.on_epoch is not None:
    execution.on_epoch(int(done), int(total))


def _stack(made, steps=None):
  """Stacks the batches of members, padded to the longest or to `steps`."""

  def side(parts):
    if parts[0] is None:
      return None
    longest = steps or max(len(part.rows) for part in parts)
    padded = [batches.pad_steps(part, longest) for part in parts]
    return IndexBatches(*(np.stack(arrays) for arrays in zip(*padded)))  # noqa: B905

  return tuple(side(parts) for parts in zip(*made, strict=True))
