r"""Writes RESULTS.md and a page from the records of studies.

  python -m experiments.report --study=runs/study_arabic_kws \
    --study=runs/study_arabic_sid --out=RESULTS.md --page=report/index.html

reads what `experiments.benchmark` wrote, or the compact files that --compact
writes, and says what follows for the claims of "Speech Unlearning". With
--ulira, as kws:sample:5%=FOLDER of a kws_shadow, its U-LiRA stands beside, and
the page shows its ROC curves and plays the most and least exposed recordings.
"""

from collections.abc import Mapping, Sequence
import gzip
import json
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

from experiments import cli
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation.claims import judge_claims
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.results_block import Block
from unlearn_jax.methods import choice
from unlearn_jax.methods.registry import METHODS
from unlearn_jax.reporting import attack_files
from unlearn_jax.reporting import records
from unlearn_jax.reporting import replication
from unlearn_jax.reporting import results
from unlearn_jax.reporting import study_page
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.types import InputError

STUDIES = flags.DEFINE_multi_string(
  'study',
  [],
  'Folder of a study, or a compact file; must be given, once for each. What '
  'differs from the first in corpus, frames or epochs is a control.',
)
ULIRA = flags.DEFINE_multi_string(
  'ulira',
  [],
  'TASK:REQUEST=FOLDER of a kws_shadow or sid_shadow that forgot likewise, as '
  'kws:sample:5%=runs/shadow; not needed.',
)
REPLICATIONS = flags.DEFINE_multi_string(
  'replication',
  [],
  'A paper_table.jsonl of experiments.paper_table, once for each; not needed.',
)
OUT = flags.DEFINE_string('out', 'RESULTS.md', 'The file to write.')
PAGE = flags.DEFINE_string(
  'page', None, 'An HTML file to write too; not given: none.'
)
COMPACT = flags.DEFINE_string(
  'compact', None, 'Folder for a compact file of each study; not given: none.'
)

_KINDS = 'sample', 'keyword', 'speaker'  # In the order of the report.


def main() -> None:
  """Writes the file."""
  if not STUDIES.value:
    raise InputError('--study: must be given, the folder of a study.')
  cards: list[MetricCard] = []
  searches: list[Mapping[str, Any]] = []
  for path in STUDIES.value:
    own, found = _read(path)
    cards += own
    searches += found
    if COMPACT.value is not None:
      _write_compact(pathlib.Path(COMPACT.value), path, own, found)
  blocks = _blocks(cards)
  titles = [block.title for block in blocks]
  read = [_population(value, titles) for value in ULIRA.value]
  populations = {block.title: block for block, _ in read}
  # A damaged file is said before anything is written.
  attacks = {
    block.title: attack_files.read(folder)
    for block, folder in read
    if PAGE.value is not None
  }
  replications = [_replication(path) for path in REPLICATIONS.value]
  facts, claims = _facts(cards, blocks), judge_claims(blocks, populations)
  text = results.results_markdown(
    _command(), facts, blocks, populations, claims, searches, replications
  )
  records.write_text(pathlib.Path(OUT.value), text)
  print(f'Results: {OUT.value}')
  if PAGE.value is not None:
    made = study_page.make_page(
      facts, blocks, populations, claims, searches, attacks
    )
    place = pathlib.Path(PAGE.value)
    place.parent.mkdir(parents=True, exist_ok=True)
    records.write_text(place, study_page.render(made))
    print(f'Page: {place}')


def _command() -> str:
  module = 'python -m experiments.report'
  return ' '.join([module, *map(shlex.quote, sys.argv[1:])])


def _read(path: str) -> tuple[list[MetricCard], list[Mapping[str, Any]]]:
  """Returns the cards and the searches of a study."""
  where = pathlib.Path(path).expanduser()
  if where.is_file():
    try:
      with gzip.open(where, 'rt', encoding='utf-8') as file:
        held = json.load(file)
      cards = [MetricCard.from_json(json.dumps(card)) for card in held['cards']]
      return cards, held['searches']
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
      raise InputError(
        f'--study={path}: must be the folder of a study, or a file that '
        f'--compact wrote, and is not ({error}).'
      ) from error
  versions = [where, *sorted(where.glob('version_*'))]
  versions = [v for v in versions if (v / 'records.jsonl').exists()]
  if not versions:
    raise InputError(
      f'--study={path}: holds no records; must be the folder of a study that '
      'experiments.benchmark finished.'
    )
  if len(versions) > 1:
    names = ', '.join(v.name for v in versions)
    raise InputError(
      f'--study={path}: holds records of several versions ({names}); must be '
      'one of these folders.'
    )
  cards = records.read(versions[0] / 'records.jsonl')
  searches = versions[0] / 'searches.jsonl'
  try:
    lines = searches.read_text('utf-8').splitlines()
    return cards, [json.loads(line) for line in lines]
  except (OSError, ValueError) as error:
    raise InputError(f'{searches}: cannot be read ({error}).') from error


def _replication(path: str) -> list[dict[str, Any]]:
  """Reads a value of --replication."""
  try:
    lines = pathlib.Path(path).expanduser().read_text('utf-8').splitlines()
    found = [json.loads(line) for line in lines]
    replication.to_markdown(found)  # What is missing is said before the end.
    return found
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise InputError(
      f'--replication={path}: must be a paper_table.jsonl that '
      f'experiments.paper_table wrote, and is not ({error}).'
    ) from error


def _write_compact(
  folder: pathlib.Path,
  study: str,
  cards: Sequence[MetricCard],
  searches: Sequence[Mapping[str, Any]],
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  name = pathlib.Path(study).name.removesuffix('.json.gz')
  held = {
    'cards': [json.loads(card.to_json()) for card in cards],
    'searches': list(searches),
  }
  path = folder / f'{name}.json.gz'
  with gzip.GzipFile(path, 'wb', mtime=0) as file:  # The same each time.
    file.write(json.dumps(held, separators=(',', ':')).encode())
  print(f'Compact: {path}')


def _blocks(cards: Sequence[MetricCard]) -> list[Block]:
  """Groups cards by request and condition; the first study is the main one.

  Raises:
    InputError: if a request has no retrained model.
  """
  found: dict[tuple[Any, ...], dict[str, dict[str, MetricCard]]] = {}
  for card in cards:
    known = card.provenance
    if not {'task', 'forget', 'method'} <= set(known):
      raise InputError(
        '--study: its records do not say their task and request; must be those '
        'of experiments.benchmark, which writes them again if it is run again.'
      )
    of = _condition(card)
    methods = found.setdefault((of, known['task'], known['forget']), {})
    methods.setdefault(known['method'], {})[card.name] = card
  blocks: list[Block] = []
  for (of, task, request), methods in found.items():
    if RETRAIN not in methods:
      raise InputError(
        f'{task} {request}: has no retrained model, without which nothing can '
        'be said.'
      )
    variants = {m: own for m, own in methods.items() if m != choice.base(m)}
    for method in variants:
      if choice.base(method) not in methods:
        raise InputError(
          f'{task} {request}: has {method} without {choice.base(method)}, with '
          'which it is to be compared.'
        )
    main = _condition(cards[0])
    texts = of[0], f'frames {of[1]}', f'{of[2]} epochs'
    differs = [t for t, o, m in zip(texts, of, main, strict=True) if o != m]
    kind = forget.parse(request).kind
    corpus, frames, epochs = of
    blocks.append(
      Block(
        task=task,
        request=request,
        kind=kind,
        cards={
          m: methods[m]
          for m in sorted(methods, key=_place_of_method)
          if m not in variants
        },
        variants=variants,
        corpus=corpus,
        frames=frames,
        epochs=epochs,
        condition=', '.join(differs),
      )
    )
  tasks = list(dict.fromkeys(block.task for block in blocks))
  conditions = list(dict.fromkeys(block.condition for block in blocks))
  return sorted(
    blocks,
    key=lambda block: (
      conditions.index(block.condition),
      tasks.index(block.task),
      _KINDS.index(block.kind) if block.kind in _KINDS else len(_KINDS),
      block.forget_size() if block.kind == 'sample' else 0,
    ),
  )


def _place_of_method(name: str) -> int:
  """Returns where a method stands, whichever call of the study ran it."""
  names = list(METHODS)
  return names.index(name) if name in names else len(names)


def _condition(card: MetricCard) -> tuple[str, str, int]:
  """Returns corpus, frames and epochs, in which controls differ."""
  known = card.provenance
  return (
    str(known.get('corpus', '')),
    str(known.get('frames', 'ordered')),
    int(known.get('epochs', Recipe().epochs)),
  )


def _population(text: str, titles: Sequence[str]) -> tuple[Block, pathlib.Path]:
  """Reads the cards of a value of --ulira; returns its folder, too."""
  target, equals, path = text.partition('=')
  task, colon, request = target.partition(':')
  if not equals or not colon or task not in ('kws', 'sid'):
    raise InputError(
      f'--ulira={text}: must be TASK:REQUEST=FOLDER, as '
      'kws:sample:5%=runs/shadow.'
    )
  parsed = forget.parse(request, '--ulira')
  if f'{task} {parsed}' not in titles:
    raise InputError(
      f'--ulira={text}: must be of a request of the studies: '
      f'{", ".join(titles)}.'
    )
  cards: dict[str, dict[str, MetricCard]] = {}
  folder = pathlib.Path(path).expanduser()
  for card in records.read(folder / 'records.jsonl'):
    cards.setdefault(card.provenance['method'], {})[card.name] = card
  return Block(task, str(parsed), parsed.kind, cards), folder


def _facts(cards: Sequence[MetricCard], blocks: Sequence[Block]) -> list[str]:
  known = [card.provenance for card in cards]

  def each(name):
    return ', '.join(sorted({str(p.get(name)) for p in known}))

  seeds = sorted({len(p['seeds']) for p in known})
  return [
    f'corpus {each("corpus")}, version {each("data_version")}',
    f'network {each("network")}',
    f'{len(blocks)} requests; seeds: {", ".join(map(str, seeds))}',
    f'device {each("device")}; jax {each("jax")}',
  ]


if __name__ == '__main__':
  cli.run(main)
