r"""Times a search of settings beside one setting, in one run.

  python benchmarks/search.py --methods=npo,bad_teacher,ssd --settings=32

Each method runs on a TC-ResNet8 whose input is noise, by its preset: once with
one setting, as a job runs it, and once as a search of all, by each strategy.
Scores are accuracies on the validation share. Compile time is told apart; a
search is new to the process each time, as a user's is.
"""

import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import torch_tc_resnet

from unlearn_jax.methods.registry import spec
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models import registry as models
from unlearn_jax.populations.search import search
from unlearn_jax.training import fit
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import set_total_steps

_CLIPS = flags.DEFINE_integer('clips', 4_800, 'Clips of the training set.', 1)
_FORGET = flags.DEFINE_integer('forget', 240, 'Clips to forget.', 1)
_SCORED = flags.DEFINE_integer('scored', 1_800, 'Clips that a score is of.', 1)
_METHODS = flags.DEFINE_list('methods', ['npo', 'bad_teacher', 'ssd'], 'Rows.')
_STRATEGIES = flags.DEFINE_list('strategies', ['map', 'vmap'], 'Of a search.')
_SETTINGS = flags.DEFINE_integer('settings', 32, 'Settings of a search.', 1)


def one_setting(name, problem, params, rows, examples, score_fn):
  """Returns seconds of compiling, running and scoring one setting."""
  row = spec(name)
  preset = row.preset
  method = row.build(problem, preset.optimizer(), **preset.options)
  program = fit.Program(method)
  state = loop.init(method, params, jax.random.key(0))
  made = [
    row.epoch_batches(preset, *rows, epoch=epoch, seed=(0,))
    for epoch in range(preset.epochs)
  ]
  state = set_total_steps(state, sum(map(fit.steps_of, made)))
  result = fit.fit(
    program,
    state,
    preset.epochs,
    lambda epoch: made[epoch],
    examples,
    prepare_batches=row.prepare_batches(preset, *rows),
  )
  start = time.perf_counter()
  score_fn(result.state.params)
  scored = time.perf_counter() - start
  return program.compile_s, result.progress.run_s, scored


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  classifier = models.build(
    'tc_resnet8', torch_tc_resnet.CLASSES, torch_tc_resnet.SHAPE
  )
  problem = Problem(
    cross_entropy(classifier.predict_fn),
    classifier.predict_fn,
    classifier.init_fn,
    classifier.input_name,
    classifier.blocks,
  )
  rng = np.random.default_rng(0)
  shape = (_CLIPS.value, *torch_tc_resnet.SHAPE)
  examples = {
    'features': jnp.asarray(rng.normal(size=shape), jnp.float16),
    'label': jnp.asarray(
      rng.integers(0, torch_tc_resnet.CLASSES, _CLIPS.value), jnp.int32
    ),
  }
  rows = np.arange(_FORGET.value), np.arange(_FORGET.value, _CLIPS.value)
  params = classifier.init_fn(jax.random.key(0))
  predict = jax.jit(
    lambda params, features: classifier.predict_fn(
      params, {'features': features}
    )
  )
  scored = examples['features'][: _SCORED.value].reshape(
    -1, 200, *torch_tc_resnet.SHAPE
  )

  def score_fn(params):
    answers = [np.asarray(predict(params, x)).argmax(-1) for x in scored]
    right = np.concatenate(answers) == examples['label'][: _SCORED.value]
    return {'gap': float(right.mean())}

  score_fn(params)
  for name in _METHODS.value:
    one = one_setting(name, problem, params, rows, examples, score_fn)
    print(
      f'{name}: one setting, compile {one[0]:.1f} s, run {one[1]:.2f}, score '
      f'{one[2]:.2f}',
      flush=True,
    )
    for strategy in _STRATEGIES.value:
      found = search(
        name,
        spec(name),
        problem,
        spec(name).preset,
        params,
        rows,
        examples,
        score_fn,
        settings=_SETTINGS.value,
        strategy=strategy,
      )
      many = found.compile_s, found.run_s, found.score_s
      print(
        f'{name}: {len(found.trials)} settings by {strategy}, compile '
        f'{many[0]:.1f} s, run {many[1]:.2f}, score {many[2]:.2f}: '
        f'{sum(many) / sum(one):.1f} times one setting, '
        f'{sum(many[1:]) / sum(one[1:]):.1f} without compiling',
        flush=True,
      )


if __name__ == '__main__':
  app.run(main)
