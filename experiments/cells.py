"""What one seed trains on, forgets and is tested on, and names of runs."""

import dataclasses
import pathlib
import re
import zlib

import jax
import numpy as np

from experiments.task import Task
from unlearn_jax.datasets import forget as forget_lib
from unlearn_jax.datasets import splits
from unlearn_jax.datasets.forget import ForgetRequest
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.methods import choice


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """What one seed trains on, forgets and is tested on.

  Attributes:
    seed: of the run.
    split_seed: of the split; the seed of the original model.
    rows: rows of 'forget', 'retain', 'validation' and 'test'.
    subsets: labels of the same, for the evaluation.
    request: what to forget; '' is nothing.
    forgotten_speakers: names of those that it forgets whole.
  """

  seed: int
  split_seed: int
  rows: dict[str, np.ndarray]
  subsets: Subsets
  request: str = ''
  forgotten_speakers: tuple[str, ...] = ()

  @property
  def training(self) -> np.ndarray:
    """Rows of the training set of the original model."""
    return np.union1d(self.rows['forget'], self.rows['retain'])


@dataclasses.dataclass(frozen=True)
class Run:
  """Names one run and its folder."""

  method: str
  seed: int
  replicate: int = 0

  @property
  def title(self) -> str:
    """Returns for instance `seed 0 retrain_1`."""
    return f'seed {self.seed} {self.name}'

  @property
  def name(self) -> str:
    """Returns for instance `retrain_1`."""
    return f'{self.method}_{self.replicate}' if self.replicate else self.method

  def folder(self, workdir: pathlib.Path) -> pathlib.Path:
    """Returns for instance `workdir/seed_0/retrain_1`."""
    # Orbax takes brackets for a pattern.
    name = re.sub(r'[][;=]+', '_', self.name).rstrip('_')
    return workdir / f'seed_{self.seed}' / name

  def entropy(self) -> tuple[int, int]:
    """Returns the seed of all that is random in this run.

    A method with other settings in brackets draws what the method draws.
    """
    return self.seed, zlib.crc32(choice.base(self.name).encode())

  def key(self) -> jax.Array:
    """Returns the PRNG key of this run."""
    seed, name_hash = self.entropy()
    return jax.random.fold_in(jax.random.key(seed), name_hash)


def make_cell(
  task: Task, request: ForgetRequest | None, seed: int, split_seed: int
) -> Cell:
  """Splits the corpus and selects the forget set.

  Args:
    task: the corpus.
    request: what to forget; None is nothing.
    seed: of the forget set.
    split_seed: of the split.

  Raises:
    InputError: if the split or the request does not fit the corpus.
  """
  corpus, label = task.corpus, task.label
  split = splits.split(corpus, task.training.split, seed=split_seed)
  forget = split.training[:0]
  forgotten: tuple[str, ...] = ()
  speakers: tuple[str, ...] = ()
  if task.training.task == 'sid':
    splits.check_classes(
      label, split, task.class_names, kind=task.training.split
    )
  if request is not None:
    forget = forget_lib.select(request, corpus, split.training, seed=seed)
    forgotten = forget_lib.forgotten_classes(request, task.training.task)
    speakers = forget_lib.forgotten_classes(request, 'sid')
  rows = {
    'forget': forget,
    'retain': np.setdiff1d(split.training, forget),
    'validation': split.validation,
    'test': split.test,
  }
  subsets = Subsets(
    labels={name: label[r] for name, r in rows.items()},
    class_names=task.class_names,
    forgotten_classes=tuple(map(task.class_names.index, forgotten)),
    forget_hash=forget_lib.forget_hash(corpus.utterance_id[forget]),
    properties=_properties(task, rows),
    untrained=task.untrained_logits(forget) if len(forget) else None,
  )
  return Cell(seed, split_seed, rows, subsets, str(request or ''), speakers)


def _properties(task, rows):
  """Returns, of each set, that of keyword and speaker which is no label."""
  name = {'kws': 'speaker', 'sid': 'keyword'}[task.training.task]
  values = getattr(task.corpus, name)
  return {name: {part: values[r] for part, r in rows.items()}}
