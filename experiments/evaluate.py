r"""Sets a model beside models that were retrained without the recordings.

  python -m experiments.evaluate --checkpoint=runs/a/seed_0/scrub \
    --retrain=runs/a/seed_0/retrain --retrain=runs/a/seed_0/retrain_1 \
    --original=runs/a/seed_0/original --data_dir=DIR --workdir=runs/audit

Takes models that jobs of training and unlearning wrote. What was to be
forgotten is read from the retrained model, or given by --forget. Writes
<workdir>/records.jsonl and <workdir>/report/index.html, and prints all metrics
of one model. Two retrained models or more give the noise floor.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import flags

from experiments import cli
from experiments import inner
from experiments import job_report
from experiments import jobs
from experiments import settings
from experiments import stored
from experiments.cells import Cell
from experiments.cells import make_cell
from experiments.cells import Run
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.reporting import tables
from unlearn_jax.types import InputError

CHECKPOINT = flags.DEFINE_multi_string(
  'checkpoint',
  [],
  'Folder of a model to judge, or name=folder; may be given several times.',
)
RETRAINED = flags.DEFINE_multi_string(
  'retrain',
  [],
  'Folder of a model retrained without the recordings; may be given several '
  'times, and from two on the noise floor is known.',
)
ORIGINAL_MODEL = flags.DEFINE_string(
  'original', None, 'Folder of the model before unlearning; not needed.'
)
FORGET = flags.DEFINE_string(
  'forget',
  None,
  'What was to be forgotten, as for the job; not given: as the retrained '
  'model says.',
)


def main() -> None:
  """Runs the job."""
  models = _find_all()
  reference = models[RETRAIN, 0]
  described = reference.description
  training = settings.training_settings(None, described)
  request = _request(described)
  decides = {
    'checkpoint': CHECKPOINT.value,
    'retrain': RETRAINED.value,
    'original': ORIGINAL_MODEL.value,
    'forget': str(request),
  }
  job = jobs.open_job(training, {}, decides, {})
  job = dataclasses.replace(job, settings={**job.settings, **decides})
  seed = int(described.get('seed', 0))
  cell = make_cell(
    job.task, request, seed, split_seed=int(described['split_seed'])
  )
  _check_same(models, cell, described)
  like = job.runner.like()
  params = {name: model.load(job.task, like) for name, model in models.items()}
  outcomes = [
    job.runner.evaluate(
      cell,
      Run(name[0], seed, name[1]),
      params[name],
      {},
      models[name].description.get('cost', {}),
    )
    for name in models
  ]
  relearn = inner.relearner(job.task, cell)
  outcomes = inner.with_inner(job.task, cell, outcomes, params, relearn)
  cards = job.write_records([cell], outcomes)
  title = f'Has {request} been forgotten by {job.task.corpus.name} models?'
  page = job_report.write(
    job,
    [cell],
    outcomes,
    cards,
    title,
    [],
    inner.picture(job.task, cell, params, cards),
  )
  print(tables.every_metric(cards).to_text(), flush=True)
  print(f'Records: {job.workdir / "records.jsonl"}\nReport: {page}')


def _find_all() -> dict[tuple[str, int], stored.Stored]:
  """Returns the models of the flags, by (method, replicate)."""
  for name, values in (
    ('checkpoint', CHECKPOINT.value),
    ('retrain', RETRAINED.value),
  ):
    if not values:
      raise InputError(
        f'--{name}: must be given, the folder of a model; without a retrained '
        'model nothing can be said.'
      )
  models = {}
  if ORIGINAL_MODEL.value is not None:
    models[ORIGINAL, 0] = stored.find('original', ORIGINAL_MODEL.value)
  for i, path in enumerate(RETRAINED.value):
    models[RETRAIN, i] = stored.find('retrain', path)
  for value in CHECKPOINT.value:
    name, sign, path = value.rpartition('=')
    model = stored.find('checkpoint', path)
    name = name if sign else str(model.description.get('method', 'checkpoint'))
    if name in (RETRAIN, ORIGINAL) or (name, 0) in models:
      raise InputError(
        f'--checkpoint={value}: the name {name} is taken; must be given '
        'another, as name=folder.'
      )
    models[name, 0] = model
  return models


def _request(described: Mapping[str, Any]) -> forget.ForgetRequest:
  text = FORGET.value or described.get('forget')
  if not text:
    raise InputError(
      '--forget: must be given, since the retrained model does not say what '
      'was forgotten.'
    )
  return forget.parse(str(text))


def _check_same(
  models: Mapping[tuple[str, int], stored.Stored],
  cell: Cell,
  described: Mapping[str, Any],
) -> None:
  """Raises an InputError if the models cannot be compared."""
  for (name, _), model in models.items():
    for what in ('settings', 'split_seed', 'classes'):
      if model.description.get(what) != described.get(what):
        raise InputError(
          f'{model.flag}: its {what} are not those of the retrained model; '
          'must be a model of the same training set.'
        )
    known = model.description.get('forget_hash')
    if name != ORIGINAL and known not in (None, cell.subsets.forget_hash):
      raise InputError(
        f'{model.flag}: has forgotten another set ({known}) than '
        f'--forget={cell.request} ({cell.subsets.forget_hash}).'
      )


if __name__ == '__main__':
  cli.run(main)
