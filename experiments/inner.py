"""Metrics that take the models themselves: layers, weights, voices."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.cells import Cell
from experiments.task import Task
from unlearn_jax.datasets.trials import Trials
from unlearn_jax.evaluation import internals
from unlearn_jax.evaluation import relearn as relearn_lib
from unlearn_jax.evaluation import speaker_leakage
from unlearn_jax.evaluation import verification
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.relearn import Relearning
from unlearn_jax.evaluation.speaker_panel import make_panel
from unlearn_jax.evaluation.speaker_panel import Panel
from unlearn_jax.reporting import embedding_plots
from unlearn_jax.reporting.records import write_text
from unlearn_jax.types import Params

# Of a large corpus, what embeddings are asked about.
_MOST_SPEAKERS, _MOST_UTTERANCES = 100, 60
_LEAST_RETAINED = 3  # Utterances, that a picture may have two dimensions.
_STAMP = 'made'
_PICTURED = 6  # Models, of which two are the original and a retrained one.


def with_inner(
  task: Task,
  cell: Cell,
  outcomes: Sequence[Outcome],
  models: Mapping[tuple[str, int], Params],
  relearn: Callable[[Params], Relearning] | None = None,
) -> list[Outcome]:
  """Returns the outcomes of one seed with what takes the models themselves.

  Args:
    task: corpus and network.
    cell: of the seed.
    outcomes: of its runs.
    models: parameters of all of them, by (method, replicate).
    relearn: fine-tunes on the forget set, see `relearner`; None leaves it out.
  """
  retrained = [name for name in models if name[0] == RETRAIN]
  heard = voices(task, cell)
  layers = functools.partial(_layers, task, cell)
  found = internals.internals(models, retrained, layers, relearn)
  if heard is not None:
    for name, params in models.items():
      embeddings = task.embeddings(params, heard.rows)
      found[name] |= speaker_leakage.leakage(heard.panel, embeddings)
  if task.trials is not None:
    for name, params in models.items():
      found[name] |= _on_trials(task, params)
  return [
    dataclasses.replace(o, inner=found[o.method, o.replicate]) for o in outcomes
  ]


class Made(NamedTuple):
  """An outcome, the file that it was read from, and what loads the model."""

  outcome: Outcome
  path: pathlib.Path
  load: Callable[[], Params]


def with_kept(
  task: Task, cell: Cell, made: Sequence[Made], path: pathlib.Path
) -> list[Outcome]:
  """Returns what `with_inner` does; what a file holds is not computed again.

  Args:
    task: corpus and network.
    cell: of the seed.
    made: of its runs.
    path: of the file, which is written; what is there of other runs stays.
  """
  kept = json.loads(path.read_text('utf-8')) if path.exists() else {}
  name = {m.path: f'{m.outcome.method}_{m.outcome.replicate}' for m in made}
  stamp = {name[m.path]: m.path.stat().st_mtime_ns for m in made}
  new = [m for m in made if _stamp(kept, name[m.path]) != stamp[name[m.path]]]
  references = [m for m in made if m.outcome.method in (ORIGINAL, RETRAIN)]
  if any(m in references for m in new):  # All are compared with them.
    kept, new = {}, list(made)
  if new:
    needed = [*references, *(m for m in new if m not in references)]
    models = {(m.outcome.method, m.outcome.replicate): m.load() for m in needed}
    found = with_inner(task, cell, [m.outcome for m in needed], models)
    for m, one in zip(needed, found, strict=True):
      own = name[m.path]
      kept[own] = {_STAMP: stamp[own], 'values': dict(one.inner)}
    write_text(path, json.dumps(kept))
  return [
    dataclasses.replace(m.outcome, inner=kept[name[m.path]]['values'])
    for m in made
  ]


def _stamp(kept, name):
  """Returns when the outcome was made whose values are kept, or None."""
  return kept.get(name, {}).get(_STAMP)


def _on_trials(task, params):
  """Returns how well a model verifies the speakers of the user's trials."""
  target, *sides = task.trials
  rows = np.unique(sides)
  trials = Trials(target, *np.searchsorted(rows, sides))
  verified = verification.verify(task.embeddings(params, rows), trials)
  return {
    'leakage.eer.trials': verified.eer,
    'leakage.min_dcf.trials': verified.min_dcf_05,
  }


class Voices(NamedTuple):
  """Utterances whose embeddings may give a speaker away.

  Attributes:
    rows: of the corpus, [n].
    is_forgotten: whether the request forgets their speaker, [n] bool.
    panel: what is asked of their embeddings.
  """

  rows: np.ndarray
  is_forgotten: np.ndarray
  panel: Panel


def voices(task: Task, cell: Cell) -> Voices | None:
  """Returns all utterances of forgotten speakers and the others' test set.

  Of a large corpus a share of the others is drawn. None stands for a test set
  with one speaker, of whom nothing can be asked.
  """
  corpus = task.corpus
  gone = [corpus.speakers.index(name) for name in cell.forgotten_speakers]
  rows = np.union1d(_others(corpus, cell, gone), _own(corpus, cell, gone))
  speaker = corpus.speaker[rows]
  if len(np.unique(speaker)) < 2:
    return None
  return Voices(
    rows,
    np.isin(speaker, gone),
    make_panel(
      speaker,
      corpus.session[rows] if any(corpus.sessions) else None,
      corpus.keyword[rows],
      gone,
      seed=cell.seed,
    ),
  )


def _own(corpus, cell, gone):
  """Returns utterances of the forgotten speakers in forget and test set."""
  rows = np.union1d(cell.rows['forget'], cell.rows['test'])
  return rows[np.isin(corpus.speaker[rows], gone)]


def _others(corpus, cell, gone):
  """Returns test utterances of persons who stay."""
  rng = np.random.default_rng([cell.seed, *gone])
  rows = rng.permutation(cell.rows['test'])
  persons = [i for i, name in enumerate(corpus.speakers) if name[:1] != '_']
  stay = np.setdiff1d(np.intersect1d(persons, corpus.speaker[rows]), gone)
  stay = rng.permutation(stay)[:_MOST_SPEAKERS]
  return np.concatenate(
    [
      rows[:0],
      *(rows[corpus.speaker[rows] == s][:_MOST_UTTERANCES] for s in stay),
    ]
  )


def picture(
  task: Task,
  cell: Cell,
  models: Mapping[tuple[str, int], Params],
  cards: Sequence[MetricCard],
) -> str:
  """Returns a picture of embeddings, or '' where it would show nothing.

  So it is where no speaker is forgotten, or all but two utterances are.

  Args:
    task: corpus and network.
    cell: of one seed.
    models: of that seed, by (method, replicate).
    cards: of all methods, which say whose embeddings are worth a look.
  """
  heard = voices(task, cell)
  if heard is None or not heard.is_forgotten.any():
    return ''
  if (~heard.is_forgotten).sum() < _LEAST_RETAINED:
    return ''
  gaps = {
    card.provenance['method']: card.value
    for card in cards
    if card.name == 'average_gap' and not np.isnan(card.value)
  }
  shown = [ORIGINAL, RETRAIN, *sorted(gaps, key=lambda name: gaps[name])]
  shown = [name for name in dict.fromkeys(shown) if (name, 0) in models]
  corpus, rows = task.corpus, heard.rows
  return embedding_plots.embedding_scatter(
    {
      name: task.embeddings(models[name, 0], rows) for name in shown[:_PICTURED]
    },
    heard.is_forgotten,
    np.asarray(corpus.speakers)[corpus.speaker[rows]],
    'tsne',
    # What is said would hide who says it.
    keyword=corpus.keyword[rows] if task.training.task == 'kws' else None,
  )


def _layers(task, cell, params, part):
  rows = cell.rows[part]
  every = max(1, -(-len(rows) // internals.MOST_EXAMPLES))
  return task.layers(params, rows[::every])


def relearner(task: Task, cell: Cell) -> Callable[[Params], Relearning]:
  """Returns what learns the forget set of a cell again."""
  problem = task.problem
  relearn = relearn_lib.make_relearn(problem.loss_fn, problem.predict_fn)
  rows = jnp.asarray(cell.rows['forget'])
  forget = {name: x[rows] for name, x in task.examples.items()}
  return functools.partial(relearn, forget=forget, seed=cell.seed)
