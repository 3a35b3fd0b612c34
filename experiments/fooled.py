r"""Which metrics notice? Judges models that are wrong on purpose.

  python -m experiments.fooled --runs=runs/arabic_sample/seed_0 \
    --data_dir=DIR --workdir=runs/fooled

takes the original and the retrained models that an unlearning job left there
and sets three models beside them that no one should deploy: one that gives the
same answer whatever it hears, one whose last layer is random, and one on which
gradient ascent has run until the forget set is lost. Prints every metric, with
a word where it tells the model from retraining, and writes
<workdir>/records.jsonl. With --shadow, the folder of a kws_shadow, also the
metrics of a population whose members all give the same answer.
"""

from collections.abc import Mapping
import pathlib
from typing import Any
import zipfile

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cli
from experiments import jobs
from experiments import settings
from experiments import stored
from experiments.cells import make_cell
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation import ulira
from unlearn_jax.evaluation.evaluate import evaluate
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.population_cards import population_cards
from unlearn_jax.evaluation.worlds import Worlds
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables
from unlearn_jax.types import InputError

RUNS = flags.DEFINE_string(
  'runs', None, 'Folder of the runs of one seed; must be given.'
)
SHADOW = flags.DEFINE_string(
  'shadow', None, 'Folder of a population of kws_shadow; not needed.'
)
_SHIFT = 100.0
_ASCENT_RATE, _ASCENT_ACCURACY, _MOST_STEPS = 1e-3, 0.05, 500


def main() -> None:
  """Prints the tables."""
  folder = pathlib.Path(RUNS.value or '')
  retrained = [
    stored.find('runs', str(path)) for path in sorted(folder.glob('retrain*'))
  ]
  if not retrained:
    raise InputError(
      f'--runs={RUNS.value}: holds no retrained model; must be the folder of a '
      'seed that kws_unlearn or sid_unlearn wrote.'
    )
  described = retrained[0].description
  if not described.get('forget'):
    raise InputError(
      f'{retrained[0].flag}: does not say what was forgotten; must be a model '
      'that kws_unlearn or sid_unlearn retrained.'
    )
  populations = []
  if SHADOW.value is not None:
    populations = _constant_population(pathlib.Path(SHADOW.value))
  training = settings.training_settings(None, described)
  job = jobs.open_job(training, {'runs': RUNS.value}, {}, {})
  task = job.task
  cell = make_cell(
    task,
    forget.parse(described['forget']),
    described['seed'],
    split_seed=described['split_seed'],
  )
  classifier, head = task.classifier, task.classifier.blocks[-1]
  like = classifier.init_fn(jax.random.key(0))
  original = stored.find('runs', str(folder / 'original')).load(task, like)
  properties = cell.subsets.properties
  sets = {
    name: {
      **{key: x[jnp.asarray(rows)] for key, x in task.examples.items()},
      **{key: of[name] for key, of in properties.items()},
    }
    for name, rows in cell.rows.items()
  }
  loss_fn = task.problem.loss_fn
  cards = evaluate(
    classifier.predict_fn,
    {
      'constant': _constant(original, head),
      'random head': original | {head: like[head]},
      'ascent': _ascended(task.problem, original, sets['forget']),
    },
    sets,
    retrained=[model.load(task, like) for model in retrained],
    original=original,
    forgotten_classes=cell.subsets.forgotten_classes,
    properties=tuple(properties),
    loss_fn=loss_fn,
    init_fn=classifier.init_fn,
    layers_fn=classifier.layers_fn,
  )
  cards = [c for c in cards if not c.name.startswith('cost.')]
  records.write(job.workdir / 'records.jsonl', [*cards, *populations])
  print(tables.every_metric(cards).to_text())
  if populations:
    print(tables.populations(populations).to_text())


def _constant(params: Mapping[str, Any], head: str) -> dict[str, Any]:
  """Returns a model whose answer is the first class."""
  last = dict(params[head])
  if 'bias' not in last:
    raise InputError('--runs: must be models with --head=softmax.')
  last['bias'] = last['bias'].at[0].add(_SHIFT)
  return {**params, head: last}


def _constant_population(folder: pathlib.Path) -> list[MetricCard]:
  """Judges a population before and after its answers became one."""
  try:
    with np.load(folder / 'design.npz') as design:
      seen, rows = design['seen'], design['rows']
    with np.load(folder / 'logits.npz') as saved:
      logits, label = saved['logits'][:, rows], saved['label'][rows]
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise InputError(
      f'--shadow={folder}: must be a folder that kws_shadow finished ({error}).'
    ) from error
  phi = ulira.logit_confidence(logits, label)
  cards: list[MetricCard] = []
  for method, shift in (('original', 0.0), ('constant', _SHIFT)):
    changed = logits.astype(np.float64)
    changed[..., 0] += shift
    shifted = ulira.logit_confidence(changed, label)
    cards += population_cards(
      Worlds(shifted, seen, shifted, ~seen),
      (phi, ~seen),
      provenance={'method': method, 'seeds': [0]},
    )[0]
  return cards


def _ascended(problem, params, forget):
  """Climbs the forget loss until the accuracy there is all but lost."""
  batch = {name: forget[name] for name in (problem.input_name, 'label')}
  batch['mask'] = jnp.ones(len(batch['label']))

  tx = optax.adam(_ASCENT_RATE)  # Its gradient is tiny at first.

  @jax.jit
  def step(params, state):
    right = problem.predict_fn(params, batch).argmax(-1) == batch['label']
    grads = jax.grad(lambda p: -problem.loss_fn(p, batch).mean())(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, right.mean()

  state = tx.init(params)
  for _ in range(_MOST_STEPS):
    climbed, state, accuracy = step(params, state)
    if accuracy <= _ASCENT_ACCURACY:
      break
    params = climbed
  return params


if __name__ == '__main__':
  cli.run(main)
