"""The table of `experiments.paper_table`, which replicates an artefact."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_jax.reporting import tables

_NOTE = 'Replicates a suspected artefact: no rule below is a method to be used.'
_HEADER = (
  *('rule', 'Dt %', 'Df %', 'Dr %', 'validation %'),
  'most frequent answer',
  'its share of Dt %',
  'largest logit',
  'collapsed',
)


def to_markdown(records: Sequence[Mapping[str, Any]]) -> str:
  """Returns what constants reach, and a table of the rules.

  Args:
    records: lines of `paper_table.jsonl`, at least one, of one corpus.
  """
  first = records[0]
  constants = {r['seed']: r['constant'] for r in records}
  parts = [
    f'{first["corpus"]}, {first["forget"]}, {first["rule_epochs"]} epochs. '
    f'{_NOTE}',
    '\n'.join(
      f'* Seed {seed}: {_constant_line(always)}'
      for seed, always in constants.items()
    ),
    _table(records).to_markdown(),
  ]
  return '\n\n'.join(parts)


def _constant_line(always):
  """Says what the constant predictor reaches."""
  training, test, validation = (
    f'{100 * always[name]:.2f} %' for name in ('training', 'test', 'validation')
  )
  return (
    f'always answering `{always["answer"]}`, most frequent in training '
    f'({training}), has {test} on the test and {validation} on the validation '
    'set.'
  )


def _table(records):
  """Returns a row for each record, with its seed if there are several."""
  several = len({record['seed'] for record in records}) > 1
  names = ('test', 'forget', 'retain', 'validation')
  rows = []
  for record in records:
    seed = f'seed {record["seed"]}: ' if several else ''
    texts = [seed + record['title']]
    if record['diverged']:
      texts += ['diverged', *['-'] * (len(_HEADER) - 2)]
    else:
      texts += [f'{100 * record[f"{name}_accuracy"]:.2f}' for name in names]
      texts += [
        record['most_frequent_answer'],
        f'{100 * record["most_frequent_share"]:.1f}',
        f'{record["largest_logit"]:.3g}',
        'yes' if record['collapsed'] else 'no',
      ]
    rows.append(tuple(map(tables.Cell, texts)))
  return tables.Table(_HEADER, tuple(rows))
