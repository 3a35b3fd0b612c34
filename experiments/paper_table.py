r"""Do the constant predictors of "Speech Unlearning" appear? A replication.

  python -m experiments.paper_table --data_dir=DIR \
    --flagfile=experiments/flagfiles/paper_table.cfg

trains the original model and runs the published recipe from it, as far as it is
known: GradAscent, RandLabel, Bad-T and SCRUB, the last two with a KL routine
that is given raw logits, which is suspected to be what made their models
constant, and beside it with the correct one. `experiments.paper_rules` says
what each rule does. These rules replicate a suspected artefact: they are no
methods of this library and no model should be unlearned by them.

Writes a record a rule to <workdir>/paper_table.jsonl and prints them in
Markdown, under the accuracy of a model that always answers the most frequent
class. In Speech Commands v0.01 with 12 labels, as in SUPERB, always answering
`unknown` has 257 of 3,081 test clips right, .0834, and 4,221 of 6,798 in
validation, .6209; the paper's 8.5 percent and .6209 are consistent with it. The
corpus `speech_commands/12` has as many `_unknown_` as of any other class in
each part, so there a constant has about 1/12 in validation, too.

The same command goes on after any interruption.
"""

import functools
import json
import shutil
from typing import Any

from absl import flags
import numpy as np

from experiments import cli
from experiments import jobs
from experiments import paper_rules
from experiments import settings
from experiments import unlearn
from experiments.cells import Cell
from experiments.cells import make_cell
from experiments.cells import Run
from experiments.paper_rules import Rule
from unlearn_jax.datasets import forget
from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import outcome as outcomes
from unlearn_jax.evaluation.accuracy import accuracy
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import SETS
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.methods.preset import Preset
from unlearn_jax.reporting import replication
from unlearn_jax.reporting.records import write_text
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.types import InputError, Params

RULES = flags.DEFINE_string(
  'rules', 'all', f'Comma list, or all: {", ".join(paper_rules.RULES)}.'
)
RULE_EPOCHS = flags.DEFINE_integer(
  'rule_epochs',
  20,
  'Passes of a rule over what it looks at (published: 20); SCRUB takes a '
  'quarter of them for max-steps and a quarter for min-steps.',
  lower_bound=1,
  upper_bound=10_000,
)
RULE_LEARNING_RATE = flags.DEFINE_float(
  'rule_learning_rate',
  1e-3,
  'Of the rules, per step, constant (published: 5e-5, for large transformers).',
  lower_bound=0.0,
)
RULE_BATCH_SIZE = flags.DEFINE_integer(
  'rule_batch_size',
  32,
  'Examples of both sets that a rule sees in a step (published: 1,597 steps '
  'over 51,085 clips, which is 32).',
  lower_bound=2,
  upper_bound=65_536,
)
# Flags of `unlearn`, without effect here.
_FOREIGN = 'allow_samples checkpoint methods preset retrain_replicates'.split()


def main() -> None:
  """Runs the job."""
  for name in _FOREIGN:
    if flags.FLAGS[name].present:
      raise InputError(f'--{name}: must not be given to paper_table.')
  rules = paper_rules.parse(RULES.value)
  request = forget.parse(unlearn.FORGET.value)
  try:
    preset = Preset(RULE_EPOCHS.value, RULE_LEARNING_RATE.value)
  except ValueError as error:  # A nan passes the bounds of a flag.
    raise InputError(f'--rule_{error}') from error
  more_settings = {
    'forget': str(request),
    'rule_epochs': RULE_EPOCHS.value,
    'rule_learning_rate': RULE_LEARNING_RATE.value,
    'rule_batch_size': RULE_BATCH_SIZE.value,
  }
  training = settings.training_settings(None)
  job = jobs.open_job(training, more_settings, {'rules': RULES.value}, {})
  runs = _Runs(job, preset)
  described = more_settings | {'corpus': job.task.corpus.name}
  path = job.workdir / 'paper_table.jsonl'
  records: list[dict[str, Any]] = []
  for seed in range(settings.SEEDS.value):
    cell = make_cell(job.task, request, seed, split_seed=seed)
    original = job.runner.outcome(cell, Run(ORIGINAL, seed), None)
    params = job.runner.params(Run(ORIGINAL, seed))
    always = constant_predictor(cell.subsets)
    for rule in (None, *rules):
      made = runs.outcome(cell, rule, params) if rule else original
      record = _describe_rule(rule) | {'seed': seed}
      record |= judge(made, cell.subsets) if made else {'diverged': True}
      records.append(record | described | {'constant': always})
      text = ''.join(f'{json.dumps(r, allow_nan=False)}\n' for r in records)
      write_text(path, text)
  print(f'{replication.to_markdown(records)}\n')
  print(f'Records: {path}', flush=True)


class _Runs:
  """Runs rules from an original model, compiling each once."""

  def __init__(self, job: jobs.Job, preset: Preset):
    self._job = job
    self._preset = preset
    self._program = functools.cache(self._make_program)

  def _make_program(self, name: str) -> fit_lib.Program:
    build = paper_rules.RULES[name].build
    tx = self._preset.optimizer()
    return fit_lib.Program(build(self._job.task.problem, tx))

  def outcome(self, cell: Cell, rule: Rule, original: Params) -> Outcome | None:
    """Returns the outcome of a rule, made unless it is there.

    None stands for a loss that became infinite or no number; the folder then
    holds the message.
    """
    run = Run(rule.name, cell.seed)
    folder = run.folder(self._job.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path, failed = folder / 'outcome.npz', folder / 'failed.txt'
    if not (path.exists() or failed.exists()):
      try:
        outcomes.save(self._run(cell, rule, run, original), path)
      except fit_lib.NonFiniteLossError as error:
        write_text(failed, f'{error}\n')
      shutil.rmtree(folder / 'running', ignore_errors=True)
    return outcomes.load(path) if path.exists() else None

  def _run(self, cell: Cell, rule: Rule, run: Run, original: Params) -> Outcome:
    runner, task = self._job.runner, self._job.task
    # All rules of a seed share it: the bad teacher and the order of batches.
    shared = Run('paper_table', cell.seed)
    program = self._program(rule.name)
    state = loop.init(program.method, original, shared.key())
    state = state.replace(params=rule.start(state.params, shared.key()))
    epochs = rule.epochs(self._preset.epochs)

    def epoch_batches(epoch):
      return rule.epoch_batches(
        cell.rows['forget'],
        cell.rows['retain'],
        epoch=epoch,
        epochs=self._preset.epochs,
        batch_size=RULE_BATCH_SIZE.value,
        rng=np.random.default_rng([*shared.entropy(), epoch]),
      )

    def observe(params):
      rows = cell.rows['validation']
      answers = task.logits(params, rows).argmax(-1)
      return {'validation_accuracy': accuracy(task.label[rows], answers)}

    result = fit_lib.fit(
      program,
      state,
      epochs,
      epoch_batches,
      task.data.training(shared.entropy()),
      observe=observe,
      on_epoch=runner.show_progress(run.title, epochs),
      checkpoints=run.folder(self._job.workdir) / 'running',
      checkpoint_every_s=settings.CHECKPOINT_EVERY_S.value,
    )
    params, curves = result.state.params, result.progress.curves
    made = runner.evaluate(cell, run, params, curves, {})
    if not all(np.isfinite(x).all() for x in made.logits.values()):
      raise fit_lib.NonFiniteLossError('logits are not finite at the end.')
    return made


def constant_predictor(subsets: Subsets) -> dict[str, Any]:
  """Returns the accuracy of always answering the most frequent class.

  Returns:
    the `answer`, the most frequent class of the training set, and its accuracy
    on `training`, `validation` and `test`, in [0, 1].
  """
  labels = subsets.labels
  training = np.concatenate([labels['forget'], labels['retain']])
  most = int(np.bincount(training).argmax())
  return {
    'answer': subsets.class_names[most],
    'training': float(np.mean(training == most)),
    'validation': float(np.mean(labels['validation'] == most)),
    'test': float(np.mean(labels['test'] == most)),
  }


def judge(outcome: Outcome, subsets: Subsets) -> dict[str, Any]:
  """Returns the numbers of a row of the table.

  Returns:
    accuracies and the share of the most frequent answer on the test set, in
    [0, 1]; the largest absolute logit there; whether the model has collapsed,
    by the classes that it should still know.
  """
  labels = subsets.labels
  answers = {name: outcome.logits[name].argmax(-1) for name in SETS}
  record: dict[str, Any] = {
    f'{name}_accuracy': accuracy(labels[name], answers[name]) for name in SETS
  }
  counts = np.bincount(answers['test'])
  kept = ~np.isin(labels['test'], subsets.forgotten_classes)
  return record | {
    'most_frequent_answer': subsets.class_names[int(counts.argmax())],
    'most_frequent_share': float(counts.max() / counts.sum()),
    'largest_logit': float(np.abs(outcome.logits['test']).max()),
    'collapsed': collapse.is_collapsed(
      labels['test'][kept], answers['test'][kept]
    ),
    'diverged': False,
  }


def _describe_rule(rule: Rule | None) -> dict[str, Any]:
  """Returns what a record says of its rule; None is the original model."""
  if rule is None:
    return {'rule': ORIGINAL, 'title': ORIGINAL, 'suspected_artefact': False}
  return {
    'rule': rule.name,
    'title': rule.title,
    'suspected_artefact': rule.is_artefact,
    'retain_weight': rule.retain_weight,
  }


if __name__ == '__main__':
  cli.run(main)
