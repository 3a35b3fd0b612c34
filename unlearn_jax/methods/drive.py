"""Runs a method of the registry by its name, on any model."""

import jax
import numpy as np

from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.spec import Problem
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.recipe import set_total_steps
from unlearn_jax.types import Batch, Params, Scope


def unlearn(
  name: str,
  problem: Problem,
  params: Params,
  rows: tuple[np.ndarray, np.ndarray],
  examples: Batch,
  *,
  scope: Scope = 'sample',
  preset: Preset | None = None,
  seed: int = 0,
) -> Params:
  """Returns a model that has unlearned, by a method and its preset.

  Args:
    name: in the registry, or `wrapper:method`.
    problem: the model.
    params: of the original model; left usable.
    rows: of the forget and of the retain set in `examples`, [n] each.
    examples: arrays [examples, ...] with what the loss reads.
    scope: what the forget set is, for which many methods have a preset of
      their own: 'sample', single recordings; 'class', all of some classes;
      'group', all of a speaker or keyword that is no class.
    preset: other settings.
    seed: of the order of the batches and all that is random in the method.

  Raises:
    KeyError: if there is no such method.
    ValueError: if the method needs more than a model and two sets: retraining
      has no preset, and a rule that rewinds needs validation data.
    NonFiniteLossError: if it diverges.
  """
  spec = registry.spec(name)
  if preset is None:
    preset = spec.preset_for(scope)
  if preset is None or spec.rewinds:
    raise ValueError(
      f'{name} cannot run on a model and two sets alone: retrain trains from '
      'scratch, and a rule that rewinds needs validation data.'
    )
  method = spec.build(problem, preset.optimizer(), **preset.options)

  def epoch_batches(epoch):
    return spec.epoch_batches(preset, *rows, epoch=epoch, seed=(seed,))

  steps = map(fit_lib.steps_of, map(epoch_batches, range(preset.epochs)))
  state = loop.init(method, params, jax.random.key(seed))
  result = fit_lib.fit(
    fit_lib.Program(method),
    set_total_steps(state, sum(steps)),
    preset.epochs,
    epoch_batches,
    examples,
    prepare_batches=spec.prepare_batches(preset, *rows),
  )
  return result.state.params
