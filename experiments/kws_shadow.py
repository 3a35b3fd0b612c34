r"""Trains a population of keyword spotters that each saw half of the data.

  python -m experiments.kws_shadow --dataset=arabic_speech_commands \
    --data_dir=DIR --members=64 --workdir=runs/shadow

Every training utterance is in the training sets of exactly half of the members.
Writes <workdir>/design.npz (who saw what), <workdir>/logits.npz (of all members
on all utterances of the corpus) and the members themselves; prints how well
U-LiRA tells apart who saw an utterance and who did not, and, as a control, two
sets of members that did not. The same command goes on after any interruption.
"""

import os
import pathlib
import sys
from typing import Any, cast

from absl import flags
import numpy as np
import tqdm

from experiments import cli
from experiments import jobs
from experiments import settings
from experiments.kws import make_cell
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation import ulira
from unlearn_jax.evaluation.evaluate import RETRAIN
from unlearn_jax.populations import design
from unlearn_jax.populations import program
from unlearn_jax.populations import train

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


@flags.validator('members', message='must be even.')
def _is_even(value):
  return value % 2 == 0


def main() -> None:
  """Runs the job."""
  decides = {'members': MEMBERS.value, 'unit': UNIT.value}
  others = {'chunk': CHUNK.value, 'strategy': STRATEGY.value}
  job = jobs.open_job(settings.training_settings(), decides, others, {})
  task = job.task
  rows = make_cell(task, None, 0, split_seed=0).training
  seen = design.half_design(
    MEMBERS.value, _groups(task.corpus, rows, UNIT.value), seed=0
  )
  _save(job.workdir / 'design.npz', seen=seen, rows=rows)
  bar = tqdm.tqdm(
    total=MEMBERS.value * task.recipe.epochs,
    desc=f'{MEMBERS.value} members',
    unit='epoch',
    disable=not (settings.PROGRESS.value and sys.stderr.isatty()),
  )

  def show(done, total):
    del total
    if done > bar.n + CHUNK.value:  # Resumed: the rate is of this process.
      bar.initial = done
    bar.update(done - bar.n)

  strategy = cast(program.Strategy, STRATEGY.value)
  mesh = program.make_mesh()
  params = train.train_population(
    job.runner.method(RETRAIN),
    task.classifier.init_fn,
    [rows[mine] for mine in seen],
    range(MEMBERS.value),
    task.examples,
    epochs=task.recipe.epochs,
    batch_size=task.recipe.batch_size,
    execution=train.Execution(
      chunk=CHUNK.value,
      strategy=strategy,
      mesh=mesh,
      folder=job.workdir / 'members',
      on_epoch=show,
    ),
  )
  bar.close()
  logits = program.logits(
    task.classifier.predict_fn,
    params,
    task.examples,
    strategy=strategy,
  )
  _save(job.workdir / 'logits.npz', logits=logits, label=task.corpus.keyword)
  predicted = logits[:, rows].argmax(-1) == task.corpus.keyword[rows]
  print(
    f'{MEMBERS.value} members: accuracy {predicted[seen].mean():.2%} on what '
    f'they saw, {predicted[~seen].mean():.2%} on what they did not.'
  )
  phi = ulira.logit_confidence(logits[:, rows], task.corpus.keyword[rows])
  _print_ulira('no unlearning', phi, seen, ~seen)
  # Those that never saw an utterance, against others that never saw it.
  turn = np.cumsum(~seen, axis=0) % 2 == 0
  _print_ulira('retraining', phi, ~seen & turn, ~seen & ~turn)
  print(f'Logits: {job.workdir / "logits.npz"}')


def _print_ulira(
  title: str, phi: np.ndarray, in_u: np.ndarray, in_r: np.ndarray
) -> None:
  """Prints how well the worlds are told apart; 50 % is by chance."""
  least = min(in_u.sum(0).min(), in_r.sum(0).min())
  if least < ulira.LEAST_MEMBERS:
    print(
      f'U-LiRA, {title}: needs {ulira.LEAST_MEMBERS} members a world, '
      f'got {least}; give more --members.'
    )
    return
  found = ulira.ulira(phi, phi, in_u=in_u, in_r=in_r)
  mean, low, high, _ = statistics.bca_interval(found.example_accuracy)
  print(
    f'U-LiRA, {title}, {least} members a world: balanced accuracy {mean:.2%} '
    f'({low:.2%} to {high:.2%}), AUC {found.auc:.3f}, true positives at 1 % '
    f'and 0.1 % false ones {found.tpr_at_1e2:.2%} and {found.tpr_at_1e3:.2%}'
  )


def _groups(corpus: Corpus, rows: np.ndarray, unit: str) -> np.ndarray:
  """Returns [len(rows)], a number for what goes in or out together."""
  if unit == 'utterance':
    return np.arange(len(rows))
  return np.asarray(getattr(corpus, unit))[rows]


def _save(path: pathlib.Path, **arrays: Any) -> None:
  """Writes the whole file or nothing."""
  part = path.with_name(f'{path.stem}.part.npz')
  np.savez_compressed(part, **arrays)
  os.replace(part, path)


if __name__ == '__main__':
  cli.run(main)
