r"""Sets several jobs side by side: methods over several requests, as a table.

  python -m experiments.summary --jobs=runs/a --jobs=runs/b --jobs=runs/c

reads <job>/records.jsonl of unlearning jobs that differ in what they forget and
prints, in Markdown, each metric of each method: the mean over the jobs ± half
the distance from the least to the greatest. With --population, a folder of
sid_shadow, its U-LiRA stands beside. `within` says whether the share in which
an adversary with five clips recognises the speaker lies in the 95 % interval
over seeds of retraining's, in every job.
"""

from collections.abc import Mapping, Sequence
import pathlib

from absl import flags
import numpy as np

from experiments import cli
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.reporting import records
from unlearn_jax.types import InputError

JOBS = flags.DEFINE_multi_string(
  'jobs', [], 'Folder of a job; must be given, once for each.'
)
POPULATION = flags.DEFINE_string(
  'population', None, 'Folder of kws_shadow or sid_shadow; not needed.'
)
# Headings, and by how much a number is multiplied.
_COLUMNS = {
  'accuracy.forget': ('forget %', 100.0),
  'accuracy.retain': ('retain %', 100.0),
  'accuracy.test': ('test %', 100.0),
  'average_gap': ('avg gap', 100.0),
  'leakage.eer.forgotten': ('EER %', 100.0),
  'leakage.probe.auc': ('probe AUC %', 100.0),
  'leakage.enrolment.1': ('1 clip %', 100.0),
  'leakage.enrolment.5': ('5 clips %', 100.0),
  'leakage.enrolment.20': ('20 clips %', 100.0),
  'cost.rte': ('times faster', 1.0),
}
_WITHIN = 'leakage.enrolment.5'
_ULIRA = 'ulira.accuracy'


def main() -> None:
  """Prints the table."""
  if not JOBS.value:
    raise InputError('--jobs: must be given, the folder of a job.')
  jobs = [_read(folder) for folder in JOBS.value]
  ulira: Mapping[tuple[str, str], MetricCard] = {}
  if POPULATION.value is not None:
    ulira = _read(POPULATION.value)
  methods = list(dict.fromkeys(method for job in jobs for method, _ in job))
  shown = [name for name in _COLUMNS if any((RETRAIN, name) in j for j in jobs)]
  header = ['method', *(_COLUMNS[name][0] for name in shown)]
  extra = _WITHIN in shown
  header += ['within'] * extra + ['U-LiRA %'] * bool(ulira)
  lines = [header, ['---', *['---:'] * (len(header) - 1)]]
  for method in methods:
    row = [method]
    for name in shown:
      row.append(_range(jobs, method, name))
    if extra:
      row.append('yes' if _is_within(jobs, method) else 'no')
    if ulira:
      row.append(_interval(ulira.get((method, _ULIRA))))
    lines.append(row)
  print('\n'.join(f'| {" | ".join(line)} |' for line in lines))


def _read(folder: str) -> dict[tuple[str, str], MetricCard]:
  """Returns the cards of a job by method and metric."""
  cards = records.read(pathlib.Path(folder).expanduser() / 'records.jsonl')
  return {(card.provenance['method'], card.name): card for card in cards}


def _values(
  jobs: Sequence[Mapping[tuple[str, str], MetricCard]], method: str, name: str
) -> np.ndarray:
  cards = [job.get((method, name)) for job in jobs]
  values = np.array([card.value for card in cards if card is not None])
  return values[~np.isnan(values)]


def _range(jobs, method, name):
  values = _COLUMNS[name][1] * _values(jobs, method, name)
  if not len(values):
    return ''
  if len(values) == 1:
    return f'{values[0]:.1f}'
  return f'{values.mean():.1f} ± {np.ptp(values) / 2:.1f}'


def _is_within(jobs, method):
  """Says whether a method lies in the interval of retraining in every job."""
  pairs = [[job.get((m, _WITHIN)) for m in (method, RETRAIN)] for job in jobs]
  return all(
    card and ideal and ideal.ci_low <= card.value <= ideal.ci_high
    for card, ideal in pairs
  )


def _interval(card):
  if card is None:
    return ''
  low, high = 100 * card.ci_low, 100 * card.ci_high
  return f'{100 * card.value:.1f} ({low:.1f} to {high:.1f})'


if __name__ == '__main__':
  cli.run(main)
