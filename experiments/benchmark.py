r"""Runs a study: requests, methods and seeds, with settings found fairly.

  python -m experiments.benchmark --data_dir=DIR \
    --flagfile=experiments/flagfiles/study_arabic_kws.cfg

trains the original models, retrains them without what each request forgets,
searches the settings of every method on data and a seed that no result uses,
runs every method, and writes <workdir>/<version>/records.jsonl (results) and
searches.jsonl. It says first what is left to do and how long it may take. The
same command goes on after any interruption, and so do others beside it, on
other machines that share the folder: each takes what none has taken. More
methods, requests or seeds run only what is new. Records of other methods and
requests stay, where the seeds are the same.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import importlib.metadata
import json
from typing import Any

from absl import flags
import jax

from experiments import cli
from experiments import comparison_flags
from experiments import jobs
from experiments import method_flags
from experiments import pretrained_flags
from experiments import settings
from experiments import study_plan
from experiments import work
from experiments.parts import Part
from experiments.parts import StudyBlock
from experiments.runs import Runner
from experiments.study import Study
from experiments.training import Training
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation import metrics
from unlearn_jax.evaluation.cards import make_cards
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.methods import choice
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables
from unlearn_jax.types import InputError

flags.adopt_module_key_flags(comparison_flags)
REQUESTS = flags.DEFINE_multi_string(
  'request',
  [],
  'What to forget, as --forget of other jobs; must be given, once for each.',
)
SEARCH_ON = flags.DEFINE_multi_string(
  'search_on',
  [],
  'Request on which settings are searched for all requests of its kind '
  '(sample, keyword, speaker), by the mean of their gaps where several of a '
  'kind are given; kinds without one run with the presets.',
)
SETTINGS = flags.DEFINE_integer(
  'settings',
  32,
  'Settings of each method that a search tries.',
  lower_bound=1,
  upper_bound=10_000,
)
TOGETHER = flags.DEFINE_integer(
  'together',
  None,
  'Runs of a method on a request that are one program, for instance those of '
  'all seeds: memory grows with it, and results change by roundings. Unless '
  'given, 8 on a GPU or TPU; 1 on a CPU, where it gains nothing, and for '
  '--model=hf:...',
  lower_bound=1,
)
METRICS = flags.DEFINE_list(
  'metrics',
  [],
  'Metrics that the printed tables show beside the usual ones, as '
  'distance.js,mia.svc_five; records hold all of them.',
)
PLAN = flags.DEFINE_bool('plan', False, 'Say what there is to do, and stop.')


def main() -> None:
  """Runs the study."""
  for name in METRICS.value:
    try:
      metrics.metric(name)
    except ValueError as error:
      raise InputError(f'--metrics: {error}') from error
  training = settings.training_settings(None)
  blocks = _blocks(training)
  decides = {
    'preset': method_flags.PRESET.value,
    'settings': SETTINGS.value,
    'search_on': SEARCH_ON.value,
    'retrain_replicates': comparison_flags.RETRAIN_REPLICATES.value,
  }
  others = {
    'request': REQUESTS.value,
    'methods': comparison_flags.METHODS.value,
    'metrics': ','.join(METRICS.value) or None,
    'together': TOGETHER.value,
  }
  job = jobs.open_job(training, decides, others, {}, is_shared=True)
  job = _in_version(job)
  study = Study(
    job.runner,
    blocks,
    settings.SEEDS.value,
    retrain_replicates=comparison_flags.RETRAIN_REPLICATES.value,
    settings=SETTINGS.value,
  )
  for block in blocks:  # What does not fit the corpus is said at once.
    for request in (block.request, *block.tuned_on):
      study.cell(request, 0)
  _print_plan(job, study)
  if PLAN.value:
    return
  most = TOGETHER.value
  if most is None:
    is_large = pretrained_flags.is_named(training.model)
    most = 1 if is_large or jax.default_backend() == 'cpu' else 8
  before = functools.partial(_before, job.runner)
  work.do(study.parts(), before, study.together(most))
  with work.claim(job.workdir / 'records.jsonl') as mine:
    if mine:
      _write(job, study)
    else:
      print('All is done; another process writes the records.')


def _before(runner: Runner, parts: Sequence[Part], left: int) -> None:
  print(f'{left} left: {", ".join(part.name for part in parts)}', flush=True)
  if cli.has_many_mappings():
    runner.drop_programs()
    cli.drop_compiled()


def _blocks(training: Training) -> list[StudyBlock]:
  """Returns the requests of the flags, each with its methods and presets.

  Raises:
    InputError: if there is none, or one is malformed.
  """
  if not REQUESTS.value:
    raise InputError('--request: must be given, what to forget.')
  searched, requests = (
    list(
      dict.fromkeys(forget.parse(text, f'--{flag.name}') for text in flag.value)
    )
    for flag in (SEARCH_ON, REQUESTS)
  )
  return [
    _block(
      training,
      request,
      tuple(other for other in searched if other.kind == request.kind),
    )
    for request in requests
  ]


def _block(training, request, tuned_on):
  scope = forget.scope(request, training.task)
  tuned_on = tuple(
    r for r in tuned_on if forget.scope(r, training.task) == scope
  )
  methods = choice.parse(
    comparison_flags.METHODS.value,
    with_class_rules=scope == 'class',
    unfit=training.unfit(),
  )
  presets = choice.presets(
    methods,
    method_flags.PRESET.value,
    scope=scope,
    rate_scale=training.rate_scale,
  )
  return StudyBlock(request, methods, presets, tuned_on)


def _in_version(job: jobs.Job) -> jobs.Job:
  """Returns the job in a folder of its version of corpus and package."""
  version = importlib.metadata.version('unlearn_jax')
  name = f'version_{version}_{job.task.corpus.fingerprint[:8]}'
  folder = job.workdir / name
  folder.mkdir(exist_ok=True)
  others = [p.name for p in job.workdir.glob('version_*') if p.name != name]
  if others:
    print(
      f'{job.workdir} holds records of another version of the package or the '
      f'corpus, which are kept: {", ".join(sorted(others))}. These go to '
      f'{name}.'
    )
  runner = job.runner.at(folder)
  return dataclasses.replace(job, workdir=folder, runner=runner)


def _print_plan(job: jobs.Job, study: Study) -> None:
  rate = study_plan.seconds_per_example(
    job.runner, study.cell(None, 0).training
  )
  table, seconds = study_plan.plan(study, rate, job.task.recipe.epochs)
  print(table.to_text())
  print(
    f'About {seconds / 3600:.1f} hours are left for one process here '
    f'({1 / rate:.0f} examples/s in training).',
    flush=True,
  )


def _write(job: jobs.Job, study: Study) -> None:
  """Writes all records, and prints a table for each request."""
  cards: list[MetricCard] = []
  searches: list[Mapping[str, Any]] = []
  failures: list[str] = []
  for block in study.blocks:
    own = _cards(job, study, block)
    table = tables.comparison(own, METRICS.value)
    print(f'\n{block.request}\n{table.to_text()}', flush=True)
    cards += own
    failures += study.failures(block)
  paths = {
    path: None
    for block in study.blocks
    for method in block.methods
    if (path := study.search(block, method)) is not None
  }
  searches = [json.loads(path.read_text('utf-8')) for path in paths]
  earlier = _earlier(job, study.seeds)
  cards = _with_earlier(earlier[0], cards, lambda c: c.provenance)
  searches = _with_earlier(earlier[1], searches, lambda record: record)
  text = ''.join(f'{json.dumps(record)}\n' for record in searches)
  records.write_text(job.workdir / 'searches.jsonl', text)
  # Last: where there are records, there are the searches of all of them.
  records.write(job.workdir / 'records.jsonl', cards)
  print(f'Records: {job.workdir / "records.jsonl"}')
  for failure in failures:
    print(f'failed: {failure}')


def _earlier(job, seeds):
  """Returns the cards and searches of other flags, of the same seeds."""
  path = job.workdir / 'records.jsonl'
  if not path.exists():
    return [], []
  cards = records.read(path)
  lines = (job.workdir / 'searches.jsonl').read_text('utf-8').splitlines()
  # A request that now has other seeds has other retrained models.
  own = [c for c in cards if c.provenance['seeds'] == list(seeds)]
  return own, [json.loads(line) for line in lines]


def _with_earlier(earlier, now, facts_of):
  """Puts what is known of other requests and methods before what is new."""

  def key(found):
    return facts_of(found)['forget'], facts_of(found)['method']

  known = {key(found) for found in now}
  return [*(found for found in earlier if key(found) not in known), *now]


def _cards(job: jobs.Job, study: Study, block: StudyBlock) -> list[MetricCard]:
  subsets = {s: study.cell(block.request, s).subsets for s in study.seeds}
  provenance = {}
  outcomes = study.outcomes(block)
  for method in dict.fromkeys(outcome.method for outcome in outcomes):
    preset = study.preset(block, method)
    own = dataclasses.replace(
      job, runner=job.runner.with_presets({method: preset} if preset else {})
    ).provenance(method)
    searched = study.search(block, method)
    provenance[method] = {
      **own,
      'forget': str(block.request),
      'preset': dataclasses.asdict(preset) if preset else None,
      'searched_on': block.searched_on if searched else None,
    }
  return make_cards(outcomes, subsets, provenance)


if __name__ == '__main__':
  cli.run(main)
