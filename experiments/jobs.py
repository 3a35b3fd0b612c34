"""What training and unlearning jobs share: their parts, records and table."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import Any

import jax

from experiments import cli
from experiments import data_flags
from experiments import settings
from experiments import workdir as workdirs
from experiments.cells import Cell
from experiments.runs import Runner
from experiments.task import Task
from experiments.training import Training
from unlearn_jax.evaluation.cards import make_cards
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.methods.preset import Preset
from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables
from unlearn_jax.training import layout


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """The parts of a job.

  Attributes:
    workdir: for everything that it writes.
    settings: what decides its results, by flag.
    task: corpus and network.
    runner: of its runs.
  """

  workdir: pathlib.Path
  settings: Mapping[str, Any]
  task: Task
  runner: Runner

  def write_records(
    self, cells: Sequence[Cell], outcomes: Sequence[Outcome]
  ) -> list[MetricCard]:
    """Evaluates what there is and writes `records.jsonl`."""
    subsets = {cell.seed: cell.subsets for cell in cells}
    methods = {outcome.method for outcome in outcomes}
    provenance = {method: self.provenance(method) for method in methods}
    cards = make_cards(outcomes, subsets, provenance)
    records.write(self.workdir / 'records.jsonl', cards)
    return cards

  def provenance(self, method: str) -> dict[str, Any]:
    """Returns what goes into the cards of a method."""
    preset = self.runner.presets.get(method)
    config = dict(self.settings)
    config['preset'] = dataclasses.asdict(preset) if preset else None
    text = json.dumps(config, sort_keys=True, default=str)
    return {
      'config_hash': hashlib.sha256(text.encode()).hexdigest()[:16],
      'task': self.task.training.task,
      'network': self.task.training.model,
      'forget': self.settings.get('forget'),
      'corpus': self.task.corpus.name,
      'epochs': self.task.training.epochs,
      'frames': self.task.training.frames,
      'data_version': self.task.corpus.fingerprint[:16],
      'device': jax.devices()[0].device_kind,
      'jax': jax.__version__,
    }


def open_job(
  training: Training,
  more_settings: Mapping[str, Any],
  others: Mapping[str, Any],
  presets: Mapping[str, Preset],
  *,
  is_shared: bool = False,
) -> Job:
  """Opens the workdir, then prepares the corpus and the network.

  Args:
    training: settings of the original models.
    more_settings: other flags that decide the results.
    others: flags that may change from job to job in one workdir.
    presets: of the methods to be run.
    is_shared: whether other jobs that share it may use the workdir too.

  Raises:
    InputError: if the workdir, the corpus or a flag does not fit.
  """
  decides = {
    **dataclasses.asdict(training),
    'data_dir': data_flags.DATA_DIR.value,
    'audio_pattern': data_flags.AUDIO_PATTERN.value,
    'skip_bad_audio': data_flags.SKIP_BAD_AUDIO.value,
    **more_settings,
  }
  free = {'seeds': settings.SEEDS.value, **others}
  free['workdir'] = settings.WORKDIR.value
  free['trials'] = data_flags.TRIALS.value
  free['data'] = data_flags.DATA.value
  free['data_workers'] = data_flags.DATA_WORKERS.value
  free['cache_dir'] = settings.CACHE_DIR.value
  free['mesh'] = settings.MESH.value
  device_layout = layout.parse(settings.MESH.value)
  newer = {field.name: field.default for field in dataclasses.fields(Training)}
  folder = workdirs.open_workdir(
    settings.WORKDIR.value, decides, free, newer=newer, is_shared=is_shared
  )
  cache_dir = pathlib.Path(settings.CACHE_DIR.value).expanduser()
  cli.use_compilation_cache(cache_dir)
  task = Task(
    training,
    data_dir=data_flags.DATA_DIR.value,
    cache_dir=cache_dir,
    audio_pattern=data_flags.AUDIO_PATTERN.value,
    skip_bad_audio=data_flags.SKIP_BAD_AUDIO.value,
    where=data_flags.DATA.value,
    workers=data_flags.DATA_WORKERS.value,
    trials=data_flags.TRIALS.value,
    device_layout=device_layout,
    progress=settings.PROGRESS.value and sys.stderr.isatty(),
  )
  runner = Runner(
    task,
    folder,
    presets,
    cli.progress_bars(settings.PROGRESS.value),
    settings.CHECKPOINT_EVERY_S.value,
  )
  return Job(folder, decides, task, runner)


def print_table(cards: Sequence[MetricCard]) -> None:
  """Prints the comparison of methods."""
  print(tables.comparison(cards).to_text(), flush=True)
