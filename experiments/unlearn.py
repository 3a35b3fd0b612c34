"""Unlearns recordings and compares with retraining: kws_unlearn, sid_unlearn.

Trains or restores the original models, selects the forget sets, runs every
method and exact retraining, and writes <workdir>/records.jsonl and
<workdir>/report/index.html. The same command goes on after any interruption.
"""

from absl import flags

from experiments import comparison_flags
from experiments import inner
from experiments import job_report
from experiments import jobs
from experiments import method_flags
from experiments import settings
from experiments import stored
from experiments.cells import Cell
from experiments.cells import make_cell
from experiments.cells import Run
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import choice
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import Params

flags.adopt_module_key_flags(comparison_flags)
FORGET = flags.DEFINE_string(
  'forget',
  'sample:5%',
  'What to forget of the training utterances: sample:5%, sample:200, '
  'keyword:NAME, speaker:NAME or ids:FILE (one utterance id a line); several '
  'are joined by +.',
)
ALLOW_SAMPLES = flags.DEFINE_bool(
  'allow_samples',
  False,
  'Run rules for whole classes on requests that remove none, too.',
)
CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'Folder of a model that kws_train or sid_train wrote, to unlearn from it '
  'instead of training. It fixes the training settings and the split.',
)


def main(task: str) -> None:
  """Runs the job.

  Args:
    task: 'kws' or 'sid'.
  """
  request = forget.parse(FORGET.value)
  scope = forget.scope(request, task)
  model = CHECKPOINT.value and stored.find('checkpoint', CHECKPOINT.value)
  described = model.description if model else None
  training = settings.training_settings(task, described)
  methods = choice.parse(
    comparison_flags.METHODS.value,
    with_class_rules=scope == 'class' or ALLOW_SAMPLES.value,
    unfit=training.unfit(),
  )
  presets = choice.presets(
    methods,
    method_flags.PRESET.value,
    scope=scope,
    rate_scale=training.rate_scale,
  )
  more_settings = {
    'checkpoint': CHECKPOINT.value,
    'forget': str(request),
    'preset': method_flags.PRESET.value,
    'retrain_replicates': comparison_flags.RETRAIN_REPLICATES.value,
  }
  others = {'methods': comparison_flags.METHODS.value}
  job = jobs.open_job(training, more_settings, others, presets)
  given = model.load(job.task, job.runner.like()) if model else None
  if given is None and job.task.pretrained is not None:
    given = job.task.pretrained.original
  cells = [
    make_cell(
      job.task,
      request,
      seed,
      split_seed=described['split_seed'] if described else seed,
    )
    for seed in range(settings.SEEDS.value)
  ]
  outcomes: list[Outcome] = []
  failures: list[str] = []
  first: dict[tuple[str, int], Params] = {}
  for i, cell in enumerate(cells):
    made = _run_cell(job, cell, methods, given, failures)
    models = {(o.method, o.replicate): _params(job, o, given) for o in made}
    outcomes += inner.with_inner(job.task, cell, made, models)
    cards = job.write_records(cells[: i + 1], outcomes)
    first = models if i == 0 else first
  title = f'Unlearning {request} from {job.task.corpus.name}'
  page = job_report.write(
    job,
    cells,
    outcomes,
    cards,
    title,
    failures,
    inner.picture(job.task, cells[0], first, cards),
  )
  jobs.print_table(cards)
  print(f'Records: {job.workdir / "records.jsonl"}\nReport: {page}')
  if failures:
    raise NonFiniteLossError('; '.join(failures))


def _params(job: jobs.Job, outcome: Outcome, given: Params | None) -> Params:
  """Returns the model of an outcome."""
  if outcome.method == ORIGINAL and given is not None:
    return given
  run = Run(outcome.method, outcome.seed, outcome.replicate)
  return job.runner.params(run)


def _run_cell(
  job: jobs.Job,
  cell: Cell,
  methods: tuple[str, ...],
  given: Params | None,
  failures: list[str],
) -> list[Outcome]:
  """Runs everything of one seed; appends what failed to `failures`."""
  runner, seed = job.runner, cell.seed
  original = Run(ORIGINAL, seed)
  if given is None:
    outcomes = [runner.outcome(cell, original, None)]
    params = runner.params(original)
  else:
    outcomes = [runner.evaluate(cell, original, given, {}, {})]
    params = given
  for method in methods:
    replicates = (
      comparison_flags.RETRAIN_REPLICATES.value if method == RETRAIN else 1
    )
    for replicate in range(replicates):
      run = Run(method, seed, replicate)
      try:
        outcomes.append(runner.outcome(cell, run, params))
      except NonFiniteLossError as error:
        failures.append(str(error))
  return outcomes
