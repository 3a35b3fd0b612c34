r"""Times methods, with their presets, beside retraining, in one run.

  python benchmarks/unlearning_cost.py --methods=confidence_matching,scrub

A TC-ResNet8 forgets a share of its clips; input is noise, as float16 log-mels
on the device. Retraining augments, and is timed over `--epochs_timed` of its
`--epochs`. Times are of the compiled loop, medians over repeats that alternate
between the candidates; compile time is apart. Examples are those that a method
learns from, repeats counted. What a method reads off held-out recordings counts
as its time: the scores of 2,000 clips heard and 600 not, as jobs take them.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import batches
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.methods import registry
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models import registry as models
from unlearn_jax.training import fit
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe

_METHODS = flags.DEFINE_list(
  'methods', ['confidence_matching', 'scrub', 'fine_tune'], 'With presets.'
)
_MODEL = flags.DEFINE_string('model', 'tc_resnet8', 'Network.')
_CLIPS = flags.DEFINE_integer('clips', 4_200, 'Training clips.', 100)
_SHARE = flags.DEFINE_float('share', 0.05, 'Of them, to forget.', 0.0, 1.0)
_EPOCHS = flags.DEFINE_integer('epochs', 60, 'Of retraining.', 1)
_TIMED = flags.DEFINE_integer('epochs_timed', 3, 'Of them.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Of each candidate.', 1)

CLASSES, SHAPE = 20, (98, 40)
HEARD, UNHEARD, SCORED = 2_000, 600, 256  # Clips, and how many at a time.


def make_problem() -> Problem:
  classifier = models.build(_MODEL.value, CLASSES, SHAPE)
  return Problem(
    cross_entropy(classifier.predict_fn),
    classifier.predict_fn,
    classifier.init_fn,
    classifier.input_name,
    classifier.blocks,
    embed_fn=classifier.embed_fn,
    embedding_size=jax.eval_shape(
      classifier.embed_fn,
      jax.eval_shape(classifier.init_fn, jax.random.key(0)),
      {classifier.input_name: np.zeros((1, *SHAPE), np.float32)},
    ).shape[-1],
  )


def retraining(problem, retain, examples):
  """Returns a program, and what runs it for some epochs."""
  recipe = Recipe()
  program = fit.Program(
    registry.spec('retrain').build(
      problem,
      recipe.optimizer(),
      augment_fn=recipe.augment_fn(LogMelConfig().hop_ms),
      max_norm=None,
      noise_multiplier=0.0,
    )
  )

  def epoch_batches(epoch):
    rng = np.random.default_rng(epoch)
    return None, batches.one_pass(retain, recipe.batch_size, rng)

  def run():
    state = loop.init(
      program.method, problem.init_fn(jax.random.key(0)), jax.random.key(0)
    )
    return fit.fit(program, state, _TIMED.value, epoch_batches, examples)

  return program, run


def unlearning(name, problem, rows, examples):
  """Returns a program, and what runs the method from fresh parameters."""
  spec = registry.spec(name)
  preset = spec.preset
  program = fit.Program(
    spec.build(problem, preset.optimizer(), **preset.options)
  )
  predict = jax.jit(
    lambda params, rows: problem.predict_fn(
      params, {k: x[rows] for k, x in examples.items()}
    )
  )

  def read_held_out(params):
    """Returns the seconds that it takes."""
    if spec.from_unheard is None or not preset.calibrate:
      return 0.0
    start, sides = time.perf_counter(), []
    for count in HEARD, UNHEARD:
      drawn = np.resize(rows[1], (-(-count // SCORED), SCORED))
      logits = [np.asarray(predict(params, part)) for part in drawn]
      labels = np.asarray(examples['label'])[drawn.ravel()]
      sides += [np.concatenate(logits), labels]
    spec.from_unheard(preset.options, *sides)
    return time.perf_counter() - start

  def run():
    spent_s = read_held_out(problem.init_fn(jax.random.key(1)))
    state = loop.init(
      program.method, problem.init_fn(jax.random.key(0)), jax.random.key(0)
    )
    result = fit.fit(
      program,
      state,
      preset.epochs,
      lambda epoch: spec.epoch_batches(preset, *rows, epoch=epoch, seed=(0,)),
      examples,
      prepare_batches=spec.prepare_batches(preset, *rows),
    )
    result.progress.run_s += spent_s
    return result

  return program, run


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  rng = np.random.default_rng(0)
  clips = _CLIPS.value
  rows = np.split(rng.permutation(clips), [round(_SHARE.value * clips)])
  problem = make_problem()
  label = rng.integers(0, CLASSES, clips).astype(np.int32)
  features = rng.normal(size=(clips, *SHAPE)).astype(np.float16)
  examples = {
    problem.input_name: jnp.asarray(features),
    'label': jnp.asarray(label),
  }
  candidates = {'retrain': retraining(problem, rows[1], examples)}
  for name in _METHODS.value:
    candidates[name] = unlearning(name, problem, rows, examples)
  seconds: dict[str, list[float]] = {name: [] for name in candidates}
  counts = {}
  start = time.perf_counter()
  for _ in range(_REPEATS.value + 1):
    for name, (_, run) in candidates.items():
      progress = run().progress
      seconds[name].append(progress.run_s)
      counts[name] = progress.examples
  whole = _EPOCHS.value / _TIMED.value
  seconds['retrain'] = [whole * s for s in seconds['retrain']]
  counts['retrain'] *= whole
  of_all = np.median(seconds['retrain'][1:])  # The first compiles.
  print(f'retrain, {_EPOCHS.value} epochs: {of_all:.1f} s')
  for name, (program, _) in candidates.items():
    share = 100 * np.array(seconds[name][1:]) / of_all
    print(
      f'{name:22}{np.median(share):6.1f} % of the time '
      f'({share.min():.1f} to {share.max():.1f})'
      f'{100 * counts[name] / counts["retrain"]:7.1f} % of the examples'
      f'   compile {program.compile_s:.1f} s'
    )
  print(f'measured in {time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  app.run(main)
