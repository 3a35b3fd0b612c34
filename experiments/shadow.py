"""Trains a population of models that each saw half: kws_shadow, sid_shadow.

Every training utterance is in the training sets of exactly half of the members.
Writes <workdir>/design.npz (who saw what), <workdir>/logits.npz (of all members
on all utterances of the corpus) and the members themselves; then
<workdir>/records.jsonl and <workdir>/report/index.html: how well U-LiRA, KLoM
and the forgetting score tell apart who saw an utterance and who did not, and,
as a control, two sets of members that did not. With --method every member then
forgets a share of what it saw, at once or part by part, and they ask again. The
same command goes on after any interruption.
"""

from absl import flags
import numpy as np

from experiments import jobs
from experiments import settings
from experiments import shadow_forget
from experiments import shadow_members
from experiments import shadow_report
from experiments.cells import make_cell
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.worlds import Worlds
from unlearn_jax.populations import design
from unlearn_jax.populations import train
from unlearn_jax.types import InputError, Scope

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


@flags.validator('members', message='must be even.')
def _is_even(value):
  return value % 2 == 0


def main(task_name: str) -> None:
  """Runs the job.

  Args:
    task_name: 'kws' or 'sid'.
  """
  training = settings.training_settings(task_name)
  names, presets = shadow_forget.methods(_scope(task_name), training.rate_scale)
  decides = {'members': MEMBERS.value, 'unit': UNIT.value}
  others = shadow_members.settings_of_run() | shadow_forget.settings_of_run()
  job = jobs.open_job(training, decides, others, presets)
  task, workdir = job.task, job.workdir
  rows = make_cell(task, None, 0, split_seed=0).training
  groups, seen = _design(task.corpus, rows, UNIT.value)
  shadow_members.save(workdir / 'design.npz', seen=seen, rows=rows)
  with shadow_members.execution(
    workdir / 'members', MEMBERS.value * task.recipe.epochs
  ) as execution:
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
  scored = shadow_members.score(job, params, '', rows)
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
  members = shadow_forget.Members(params, rows, groups, seen)
  for name in names:
    job = shadow_forget.calibrate(job, name, members)
    judged.append(shadow_forget.forget(job, name, members))
  try:
    page = shadow_report.write(job, rows, reference, never, judged)
  except ValueError as error:
    print(f'No metrics: {error} Give more --members.', flush=True)
  else:
    print(f'Records: {workdir / "records.jsonl"}\nReport: {page}')


def _scope(task_name: str) -> Scope:
  if UNIT.value == 'utterance':
    return 'sample'
  return 'class' if UNIT.value == settings.TASKS[task_name].label else 'group'


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
