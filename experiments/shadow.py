"""Trains a population of models that each saw half: kws_shadow, sid_shadow.

Every training utterance is in the training sets of exactly half of the members.
Writes <workdir>/design.npz (who saw what), <workdir>/logits.npz (of all members
on all utterances of the corpus) and the members themselves; then
<workdir>/records.jsonl and <workdir>/report/index.html: how well U-LiRA, KLoM
and the forgetting score tell apart who saw an utterance and who did not, and,
as a control, two sets of members that did not. With --method every member then
forgets a share of what it saw, and they ask again. The same command goes on
after any interruption.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import sys
from typing import Any, cast
import zlib

from absl import flags
import numpy as np
import tqdm

from experiments import jobs
from experiments import method_flags
from experiments import settings
from experiments import shadow_report
from experiments.cells import make_cell
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.worlds import Worlds
from unlearn_jax.methods import choice
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import design
from unlearn_jax.populations import program
from unlearn_jax.populations import train
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError, Params

MEMBERS = flags.DEFINE_integer(
  'members',
  64,
  'Models of the population, an even number.',
  lower_bound=2,
  upper_bound=10_000,
)
UNIT = flags.DEFINE_enum(
  'unit',
  'utterance',
  ['utterance', 'speaker', 'keyword'],
  'What is in or out of a training set together.',
)
CHUNK = flags.DEFINE_integer(
  'chunk',
  8,
  'Models trained at a time: memory grows with it, and a kill costs as many.',
  lower_bound=1,
)
STRATEGY = flags.DEFINE_enum(
  'strategy',
  'auto',
  ['auto', 'map', 'vmap'],
  'Models of a chunk one after another or all together; auto: by platform.',
)
METHOD = flags.DEFINE_string(
  'method',
  None,
  'Comma list of methods, each of which every member then runs on a share of '
  'what it saw; not given: none.',
)
FORGET_FRACTION = flags.DEFINE_float(
  'forget_fraction',
  0.25,
  'The share of what it saw that each member forgets by --method.',
  lower_bound=0.0,
  upper_bound=1.0,
)


@flags.validator('members', message='must be even.')
def _is_even(value):
  return value % 2 == 0


def main(task_name: str) -> None:
  """Runs the job.

  Args:
    task_name: 'kws' or 'sid'.
  """
  names, presets = _method(task_name)
  decides = {'members': MEMBERS.value, 'unit': UNIT.value}
  others = {
    'chunk': CHUNK.value,
    'strategy': STRATEGY.value,
    'method': METHOD.value,
    'forget_fraction': FORGET_FRACTION.value,
    'preset': method_flags.PRESET.value,
  }
  job = jobs.open_job(
    settings.training_settings(task_name), decides, others, presets
  )
  task, workdir = job.task, job.workdir
  rows = make_cell(task, None, 0, split_seed=0).training
  groups, seen = _design(task.corpus, rows, UNIT.value)
  _save(workdir / 'design.npz', seen=seen, rows=rows)
  with _execution(workdir / 'members', task.recipe.epochs) as execution:
    params = train.train_population(
      job.runner.method(RETRAIN),
      task.classifier.init_fn,
      [rows[mine] for mine in seen],
      range(MEMBERS.value),
      task.examples,
      epochs=task.recipe.epochs,
      batch_size=task.recipe.batch_size,
      execution=execution,
    )
  scored = _score(job, params, workdir / 'logits.npz', rows)
  never = ~seen
  reference = shadow_report.Population(scored, kept=seen)
  # Those that never saw an utterance, against others that never saw it; each
  # member stands on either side, of different utterances.
  turn = (np.cumsum(never, axis=0) + np.arange(len(rows))) % 2 == 0
  phi = scored.confidence
  judged = [
    shadow_report.Judged(ORIGINAL, reference, Worlds(phi, seen, phi, never)),
    shadow_report.Judged(
      RETRAIN, reference, Worlds(phi, never & turn, phi, never & ~turn)
    ),
  ]
  judged += [_forget(job, name, params, rows, groups, seen) for name in names]
  try:
    page = shadow_report.write(job, rows, reference, never, judged)
  except ValueError as error:
    print(f'No metrics: {error} Give more --members.', flush=True)
  else:
    print(f'Records: {workdir / "records.jsonl"}\nReport: {page}')


def _method(task: str) -> tuple[tuple[str, ...], dict[str, Preset]]:
  """Returns the method of the flag and its preset, if there is one."""
  if METHOD.value is None:
    return (), {}
  if not FORGET_FRACTION.value > 0:
    raise InputError(
      f'--forget_fraction={FORGET_FRACTION.value}: must be in (0, 1].'
    )
  by_class = UNIT.value == settings.TASKS[task].label
  names = choice.parse(METHOD.value, with_class_rules=by_class, flag='--method')
  if len(names) < 2 or any(registry.spec(name).rewinds for name in names):
    raise InputError(
      f'--method={METHOD.value}: must be a comma list of methods, other than '
      'retrain and those that rewind.'
    )
  presets = choice.presets(
    names[1:], method_flags.PRESET.value, removes_classes=by_class
  )
  return names[1:], presets


def _forget(
  job: jobs.Job,
  name: str,
  params: Params,
  rows: np.ndarray,
  groups: np.ndarray,
  seen: np.ndarray,
) -> shadow_report.Judged:
  """Lets every member forget a share of what it saw, and scores them."""
  fraction = FORGET_FRACTION.value
  forgotten = design.forget_design(seen, groups, fraction=fraction, seed=1)
  made = f'{name.replace(":", "_")}_{fraction:g}'
  if method_flags.PRESET.value:  # Other settings, other members.
    preset = repr(job.runner.presets[name])
    made += f'_{zlib.crc32(preset.encode()):08x}'
  _save(job.workdir / f'forgotten_{made}.npz', forgotten=forgotten)
  params_u = _unlearn(job, name, params, rows, seen, forgotten, made)
  scored = _score(job, params_u, job.workdir / f'logits_{made}.npz', rows)
  # Both worlds ran the method; one on this utterance, one on others.
  phi = scored.confidence
  population = shadow_report.Population(scored, kept=seen & ~forgotten)
  return shadow_report.Judged(
    name, population, Worlds(phi, forgotten, phi, ~seen)
  )


def _unlearn(
  job: jobs.Job,
  name: str,
  params: Params,
  rows: np.ndarray,
  seen: np.ndarray,
  forgotten: np.ndarray,
  made: str,
) -> Params:
  """Lets every member forget what the design says."""
  spec, preset = registry.spec(name), job.runner.presets[name]

  def sets(member):
    kept = seen[member] & ~forgotten[member]
    return rows[forgotten[member]], rows[kept]

  def epoch_batches(member, epoch):
    seed = member, zlib.crc32(name.encode())
    return spec.epoch_batches(preset, *sets(member), epoch=epoch, seed=seed)

  def prepare_batches(member):
    return spec.prepare_batches(preset, *sets(member))

  with _execution(job.workdir / f'members_{made}', preset.epochs) as execution:
    return train.unlearn_population(
      job.runner.method(name),
      params,
      epoch_batches,
      range(MEMBERS.value),
      job.task.examples,
      epochs=preset.epochs,
      prepare_batches=prepare_batches,
      execution=execution,
    )


@contextlib.contextmanager
def _execution(folder: pathlib.Path, epochs: int) -> Iterator[train.Execution]:
  """Gives how to run, by the flags, with a progress bar."""
  bar = tqdm.tqdm(
    total=MEMBERS.value * epochs,
    desc=folder.name,
    unit='epoch',
    disable=not (settings.PROGRESS.value and sys.stderr.isatty()),
  )

  def show(done, total):
    del total
    if done > bar.n + CHUNK.value:  # Resumed: the rate is of this process.
      bar.initial = done
    bar.update(done - bar.n)

  try:
    execution = train.Execution(
      chunk=CHUNK.value,
      strategy=cast(program.Strategy, STRATEGY.value),
      mesh=program.make_mesh(),
      folder=folder,
      on_epoch=show,
    )
  except ValueError as error:
    raise InputError(f'--{error}') from error
  with bar:
    yield execution


def _score(
  job: jobs.Job, params: Params, path: pathlib.Path, rows: np.ndarray
) -> shadow_report.Scored:
  """Saves the logits of all members; returns what they say."""
  label = job.task.label
  logits = program.logits(
    job.task.classifier.predict_fn,
    params,
    job.task.examples,
    strategy=cast(program.Strategy, STRATEGY.value),
  )
  _save(path, logits=logits, label=label)
  if bad := int((~np.isfinite(logits)).any((1, 2)).sum()):
    raise NonFiniteLossError(
      f'{path}: {bad} of {len(logits)} members diverged; lower the learning '
      'rate.'
    )
  return shadow_report.score(logits, label, rows)


def _design(
  corpus: Corpus, rows: np.ndarray, unit: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what goes in or out together, [len(rows)], and who saw what."""
  groups = np.arange(len(rows))
  if unit != 'utterance':
    groups = np.asarray(getattr(corpus, unit))[rows]
  try:
    return groups, design.half_design(MEMBERS.value, groups, seed=0)
  except ValueError as error:
    raise InputError(f'--unit={unit}: {error}') from error


def _save(path: pathlib.Path, **arrays: Any) -> None:
  """Writes the whole file or nothing."""
  part = path.with_name(f'{path.stem}.part.npz')
  np.savez_compressed(part, **arrays)
  os.replace(part, path)
