"""The metrics of populations, the page that shows them, and what others need.

Beside the records lie the attacks and the sound of what they expose, for pages
that are made without the corpus.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np

from experiments import job_report
from experiments import jobs
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import population_cards
from unlearn_jax.evaluation import ulira
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.ulira import UliraResult
from unlearn_jax.evaluation.worlds import Worlds
from unlearn_jax.reporting import attack_files
from unlearn_jax.reporting import attack_plots
from unlearn_jax.reporting import page as pages
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables

_EXPOSED = 4
_TABLE_TEXT = (
  'Each value stands beside its ideal: what the same metric gives for models '
  'that never saw a recording against others that never saw it, drawn 20 '
  'times, with 95 % intervals. U-LiRA: an attacker who knows both worlds, 0.5 '
  'is chance. KLoM: divergence of margins, nats. Forgetting score: of the '
  'NeurIPS 2023 competition. Confidence gap: how much surer models are of what '
  'they unlearned than of what they never saw; below its ideal, too much was '
  'forgotten.'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
  """What all members of a population say.

  Attributes:
    confidence: logit confidences on the training utterances, [members, rows].
    is_right: on the same.
    test_accuracy: on utterances that no member was trained on, [members].
    is_collapsed: whether the members, taken together, have collapsed there.
  """

  confidence: np.ndarray
  is_right: np.ndarray
  test_accuracy: np.ndarray
  is_collapsed: bool


def score(logits: np.ndarray, label: np.ndarray, rows: np.ndarray) -> Scored:
  """Scores logits [members, utterances, classes] of a whole corpus.

  Args:
    logits: finite.
    label: [utterances].
    rows: the training utterances.
  """
  predictions = logits.argmax(-1)
  unseen = np.setdiff1d(np.arange(len(label)), rows)
  is_right = predictions == label
  return Scored(
    ulira.logit_confidence(logits[:, rows], label[rows]),
    is_right[:, rows],
    is_right[:, unseen].mean(1),
    collapse.is_collapsed(
      np.tile(label[unseen], len(logits)), predictions[:, unseen].ravel()
    ),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
  """A population and what its members are to remember.

  Attributes:
    scored: what they say.
    kept: [members, rows] bool.
    runs: how often each member stands there, one after the other.
  """

  scored: Scored
  kept: np.ndarray
  runs: int = 1

  def utilities(self) -> dict[str, np.ndarray]:
    """Returns accuracies of each member."""
    right = self.scored.is_right & self.kept
    found = {
      'accuracy.retain': right.sum(1) / self.kept.sum(1),
      'accuracy.test': self.scored.test_accuracy,
    }
    return {k: v.reshape(-1, self.runs).mean(1) for k, v in found.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
  """A method and its two worlds."""

  method: str
  population: Population
  worlds: Worlds


def write(
  job: jobs.Job,
  rows: np.ndarray,
  reference: Population,
  never: np.ndarray,
  judged: Sequence[Judged],
) -> pathlib.Path:
  """Writes records, attacks and page, and prints the table.

  Args:
    job: of the populations.
    rows: the training utterances.
    reference: the trained population, which has unlearned nothing.
    never: [members, rows] bool, which of its members never saw which.
    judged: methods, among them 'original' and the control 'retrain'.

  Returns:
    the page.

  Raises:
    ValueError: if the populations are too small.
  """
  cards: list[MetricCard] = []
  found: dict[str, UliraResult] = {}
  base = reference.utilities()
  for one in judged:
    own = one.population.utilities()
    made, found[one.method] = population_cards.population_cards(
      one.worlds,
      (reference.scored.confidence, never),
      provenance=job.provenance(one.method)
      | {'method': one.method, 'seeds': [0]},
      utility={name: (own[name], base[name]) for name in own},
      collapsed=one.population.scored.is_collapsed,
    )
    cards += made
  recordings = _recordings(job, rows, found)
  records.write(job.workdir / 'records.jsonl', cards)
  attack_files.write_attacks(job.workdir, found)
  attack_files.write_exposed(job.workdir, _exposed(found, recordings))
  table = tables.populations(cards)
  print(table.to_text(), flush=True)
  folder = job.workdir / 'report'
  folder.mkdir(exist_ok=True)
  page = pages.Page(
    title=f'What models of {job.task.corpus.name} remember',
    facts=_facts(job, rows, never),
    warnings=[
      f'{one.method} has collapsed, so that its metrics mean nothing.'
      for one in judged
      if one.population.scored.is_collapsed
    ],
    table=table,
    table_title='Populations',
    table_text=_TABLE_TEXT,
    figures=_figures(found),
    recordings_text='Those that an attacker tells apart most surely, and '
    'least.',
    recordings=_noted(found, recordings),
  )
  records.write_text(folder / 'table.md', f'{table.to_markdown()}\n')
  records.write_text(folder / 'index.html', pages.render(page))
  return folder / 'index.html'


def _facts(job, rows, never):
  corpus = job.task.corpus
  return [
    ('corpus', f'{corpus.name}: {len(corpus)} recordings'),
    ('members', f'{len(never)}, each trained on half of {len(rows)}'),
    ('network', job.task.training.model),
    ('settings', job.workdir.joinpath('flags.txt').read_text().strip()),
  ]


def _figures(found):
  scores = {
    method: (of.scores[of.unlearned], of.scores[~of.unlearned])
    for method, of in found.items()
  }
  return [
    pages.Figure(
      'U-LiRA',
      'How many recordings an attacker rightly says were unlearned, over how '
      'many it wrongly says so. Chance is dotted; green is the control of '
      'models that never saw them.',
      attack_plots.roc_curves(scores),
    ),
    pages.Figure(
      'Recordings one by one',
      'How often the attacker is right about each recording, over models; the '
      'control behind.',
      attack_plots.score_histograms(
        {method: of.example_accuracy for method, of in found.items()},
        'balanced accuracy of U-LiRA on a recording',
      ),
    ),
  ]


def _recordings(job, rows, found) -> dict[int, pages.Recording]:
  """Returns all that some attack exposes most or least, by example."""
  if job.task.corpus.features is not None:  # Without sound.
    return {}
  return {
    int(i): job_report.recording(job, int(rows[i]), {})
    for i in np.unique(np.concatenate([x for *_, x in _chosen(found)]))
  }


def _chosen(
  found: Mapping[str, UliraResult],
) -> list[tuple[str, str, np.ndarray]]:
  """Chooses examples by each method's attack: method, heading, which."""
  groups: list[tuple[str, str, np.ndarray]] = []
  for method, of in found.items():
    if method == RETRAIN:
      continue
    accuracy = of.example_accuracy
    order = np.argsort(-np.nan_to_num(accuracy, nan=-1.0), kind='stable')
    order = order[: int(np.isfinite(accuracy).sum())]
    name = 'without unlearning' if method == ORIGINAL else f'after {method}'
    groups += [
      (method, f'Most exposed {name}', order[:_EXPOSED]),
      (method, f'Least exposed {name}', order[len(order) - _EXPOSED // 2 :]),
    ]
  return groups


def _noted(found, recordings) -> list[tuple[str, list[pages.Recording]]]:
  """Returns what the page of the population shows, by heading."""
  return [
    (
      heading,
      [
        dataclasses.replace(
          recordings[i],
          note='The attacker is right in '
          f'{found[method].example_accuracy[i]:.0%}.',
        )
        for i in chosen
        if i in recordings
      ],
    )
    for method, heading, chosen in _chosen(found)
  ]


def _exposed(found, recordings) -> list[attack_files.ExposedGroup]:
  """Returns what pages of studies show; nothing for corpora without sound."""

  def exposed(i):
    one = recordings[i]
    accuracy = {m: float(of.example_accuracy[i]) for m, of in found.items()}
    return attack_files.ExposedRecording(
      one.utterance_id,
      one.keyword,
      one.speaker,
      {m: value for m, value in accuracy.items() if np.isfinite(value)},
      one.audio_address(),
    )

  return [
    attack_files.ExposedGroup(method, heading, tuple(map(exposed, chosen)))
    for method, heading, chosen in _chosen(found)
    if recordings
  ]
