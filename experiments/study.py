"""A study: requests, methods and seeds, as pieces of work that leave files.

    <folder>/seed_0/original/            models before unlearning
    <folder>/tuning/speaker/npo.json     a search of settings
    <folder>/speaker_00000007/seed_0/npo/  a run

All seeds share one split, so that the test set stays unseen by every search.
"""

from collections.abc import Iterator, Sequence
import functools
import pathlib
from typing import Any

from experiments import calibration
from experiments import inner
from experiments import tuning
from experiments.cells import Cell
from experiments.cells import make_cell
from experiments.cells import Run
from experiments.parts import folder_name
from experiments.parts import Part
from experiments.parts import STAGES
from experiments.parts import StudyBlock
from experiments.runs import Runner
from experiments.work import Together
from unlearn_jax.datasets.forget import ForgetRequest
from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods import choice
from unlearn_jax.methods.preset import Preset
from unlearn_jax.reporting.records import write_text
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import Params

_SPLIT_SEED = 0
_FAILED = 'failed.txt'


class Study:
  """Makes what a study consists of, and reads it back."""

  def __init__(
    self,
    runner: Runner,
    blocks: Sequence[StudyBlock],
    seeds: int,
    *,
    retrain_replicates: int,
    settings: int,
  ):
    """Makes nothing yet.

    Args:
      runner: in the folder of the study.
      blocks: requests, each with its methods.
      seeds: of each cell, 0, 1, ...
      retrain_replicates: retrained models a seed.
      settings: that a search tries.
    """
    self.blocks = tuple(blocks)
    self.seeds = range(seeds)
    self._runner = runner
    self._folder = runner.workdir
    self._replicates = retrain_replicates
    self.settings = settings

  def parts(self) -> list[Part]:
    """Returns all parts, in the order of their stages."""
    found: dict[pathlib.Path, Part] = {}
    for block in self.blocks:
      for part in (*self._searches(block), *self._runs(block)):
        found.setdefault(part.made, part)
    return sorted(found.values(), key=lambda part: STAGES.index(part.stage))

  def together(self, most: int) -> Together:
    """Returns how runs of one method on one request are one program.

    Args:
      most: runs a program, at least 1.
    """

    def kind(part: Part) -> tuple[str, pathlib.Path] | None:
      if part.run is None:
        return None
      return part.method, part.made.parents[2]

    return Together(most, kind, self._make_together)

  def _make_together(self, parts: Sequence[Part]) -> None:
    runs = [part.run for part in parts if part.run is not None]
    cells = [self.cell(parts[0].request, run.seed) for run in runs]
    block, folder = parts[0].block, parts[0].made.parents[2]
    if block is None:
      runner, originals = self._runner.at(folder), [None] * len(runs)
    else:
      runner = self._runner_of(block, parts[0].method)
      originals = [self._params(run.seed) for run in runs]
    if runner.can_run_together(cells):
      try:
        return runner.make_together(cells, runs, originals)
      except NonFiniteLossError:  # Of one; alone, the others do not fail.
        pass
    for part in parts:
      part.make()

  def runs(self, block: StudyBlock) -> list[Run]:
    """Returns the runs of a block, without the original models."""
    return [
      Run(method, seed, replicate)
      for method in block.methods
      for seed in self.seeds
      for replicate in range(self._replicates if method == RETRAIN else 1)
    ]

  def cell(self, request: ForgetRequest | None, seed: int) -> Cell:
    """Returns what one seed forgets, and what it is tested on."""
    return _cell(self._runner.task, request, seed)

  def outcomes(self, block: StudyBlock) -> list[Outcome]:
    """Returns what there is of a block, with what takes the models."""
    found = []
    for seed in self.seeds:
      found += self._outcomes_of(block, seed)
    return found

  def failures(self, block: StudyBlock) -> list[str]:
    """Returns what each failed run of a block says."""
    folder = self._folder / block.name
    files = [run.folder(folder) / _FAILED for run in self.runs(block)]
    return [f.read_text('utf-8').strip() for f in files if f.exists()]

  def search(self, block: StudyBlock, method: str) -> pathlib.Path | None:
    """Returns the record of the search for a method; None has no search."""
    preset = block.presets.get(method)
    if not block.tuned_on or preset is None:
      return None
    return self._search_path(block, method)

  def preset(self, block: StudyBlock, method: str) -> Preset | None:
    """Returns the setting with which a method runs; None is retraining."""
    path = self.search(block, method)
    if path is None:
      return block.presets.get(method)
    return choice.changed(tuning.chosen(path), method)

  def _tuning_folder(self, *requests):
    name = '+'.join(map(folder_name, requests))
    return self._folder / 'tuning' / name

  def _search_path(self, block, method):
    folder = self._tuning_folder(*block.tuned_on)
    return folder / f'{choice.base(method).replace(":", "_")}.json'

  def _runner_of(self, block: StudyBlock, method: str) -> Runner:
    """Returns what runs one method; searches of others may be under way."""
    preset = self.preset(block, method)
    assert preset is not None
    runner = self._runner.with_presets({method: preset})
    return runner.at(self._folder / block.name)

  def _params(self, seed: int) -> Params:
    return self._runner.params(Run(ORIGINAL, seed))

  def _train(self, request, folder, run) -> Part:
    """Returns an original model (request None), or a retrained one."""

    def make():
      runner = self._runner.at(folder)
      runner.outcome(self.cell(request, run.seed), run, None)

    return Part(
      name=f'{request} {run.title}' if request else run.title,
      made=_made(run, folder),
      make=make,
      stage=run.method,
      method=run.method,
      request=request,
      run=run,
    )

  def _original(self, seed) -> Part:
    return self._train(None, self._folder, Run(ORIGINAL, seed))

  def _searches(self, block: StudyBlock) -> Iterator[Part]:
    """Yields the searches of a block, and what they need before them."""
    if not block.tuned_on:
      return
    runs = [Run(RETRAIN, tuning.SEED, i) for i in range(self._replicates)]
    trained = [self._original(tuning.SEED)]
    for request in block.tuned_on:
      folder = self._tuning_folder(request)
      trained += [self._train(request, folder, run) for run in runs]
    yield from trained

    def reference(request):
      folder = self._tuning_folder(request)
      return calibration.Reference(
        self.cell(request, tuning.SEED),
        [outcomes.load(_made(run, folder)) for run in runs],
      )

    for method in filter(lambda name: '[' not in name, block.presets):

      def make(method=method):
        record = tuning.find_settings(
          self._runner.task,
          list(map(reference, block.tuned_on)),
          method,
          block.presets[method],
          self._params(tuning.SEED),
          settings=self.settings,
        )
        tuning.save(self._search_path(block, method), record)

      yield Part(
        name=f'{block.searched_on} search of {method}',
        made=self._search_path(block, method),
        make=make,
        needs=tuple(part.made for part in trained),
        stage='search',
        method=method,
        request=block.tuned_on[0],
        block=block,
      )

  def _runs(self, block: StudyBlock) -> Iterator[Part]:
    """Yields the runs of a block, and what they need before them."""
    folder = self._folder / block.name
    for run in self.runs(block):
      original = self._original(run.seed)
      yield original
      if run.method == RETRAIN:
        yield self._train(block.request, folder, run)
        continue

      def make(run=run):
        cell = self.cell(block.request, run.seed)
        try:
          runner = self._runner_of(block, run.method)
          runner.outcome(cell, run, self._params(run.seed))
        except NonFiniteLossError as error:  # Others need not wait for it.
          write_text(run.folder(folder) / _FAILED, f'{error}\n')

      search = self.search(block, run.method)
      yield Part(
        name=f'{block.request} {run.title}',
        made=_made(run, folder),
        make=make,
        needs=(original.made, *([search] if search else [])),
        failed=run.folder(folder) / _FAILED,
        stage='run',
        method=run.method,
        request=block.request,
        block=block,
        run=run,
      )

  def _outcomes_of(self, block, seed):
    """Returns the outcomes of a seed; metrics of models are kept on disk."""
    folder = self._folder / block.name
    original = Run(ORIGINAL, seed)
    places = {original: self._folder}
    places |= {r: folder for r in self.runs(block) if r.seed == seed}
    places = {r: at for r, at in places.items() if _made(r, at).exists()}
    made = {run: outcomes.load(_made(run, at)) for run, at in places.items()}
    cell = self.cell(block.request, seed)
    made[original] = self._runner.evaluate(
      cell, original, self._params(seed), {}, made[original].cost
    )
    models = {
      run: functools.partial(self._runner.at(at).params, run)
      for run, at in places.items()
    }
    return inner.with_kept(
      self._runner.task,
      cell,
      [
        inner.Made(made[run], _made(run, at), models[run])
        for run, at in places.items()
      ],
      folder / f'seed_{seed}' / 'inner.json',
    )


def _made(run: Run, folder: pathlib.Path) -> pathlib.Path:
  return run.folder(folder) / 'outcome.npz'


@functools.lru_cache(256)
def _cell(task: Any, request: ForgetRequest | None, seed: int) -> Cell:
  return make_cell(task, request, seed, split_seed=_SPLIT_SEED)
