"""Members of a population forget a share of what they saw."""

from collections.abc import Sequence
from typing import Any
import zlib

from absl import flags
import jax
import numpy as np

from experiments import jobs
from experiments import method_flags
from experiments import shadow_members
from experiments import shadow_report
from unlearn_jax.evaluation.worlds import Worlds
from unlearn_jax.methods import choice
from unlearn_jax.methods import registry
from unlearn_jax.methods.preset import Preset
from unlearn_jax.populations import design
from unlearn_jax.populations import train
from unlearn_jax.types import InputError, Params, Scope

METHOD = flags.DEFINE_string(
  'method',
  None,
  'Comma list of methods, each of which every member then runs on a share of '
  'what it saw; not given: none.',
)
FORGET_FRACTION = flags.DEFINE_float(
  'forget_fraction',
  0.25,
  'The share of what it saw that each member forgets by --method.',
  lower_bound=0.0,
  upper_bound=1.0,
)
FORGET_PARTS = flags.DEFINE_integer(
  'forget_parts',
  1,
  'Parts of that share, each forgotten by itself from the trained member: '
  'requests of another size, for as many runs. 1: all at once.',
  lower_bound=1,
  upper_bound=1_000,
)


def settings_of_run() -> dict[str, Any]:
  """Returns the flags of forgetting."""
  return {
    'method': METHOD.value,
    'forget_fraction': FORGET_FRACTION.value,
    'forget_parts': FORGET_PARTS.value,
    'preset': method_flags.PRESET.value,
  }


def methods(
  scope: Scope, rate_scale: float
) -> tuple[tuple[str, ...], dict[str, Preset]]:
  """Returns the methods of the flag, and their presets; there may be none.

  Args:
    scope: what members forget.
    rate_scale: as `choice.presets` takes it.

  Raises:
    InputError: if a flag does not fit.
  """
  if METHOD.value is None:
    return (), {}
  if not FORGET_FRACTION.value > 0:
    raise InputError(
      f'--forget_fraction={FORGET_FRACTION.value}: must be in (0, 1].'
    )
  names = choice.parse(
    METHOD.value, with_class_rules=scope == 'class', flag='--method'
  )
  if len(names) < 2 or any(
    registry.spec(name).rewinds or '[' in name for name in names
  ):
    raise InputError(
      f'--method={METHOD.value}: must be a comma list of methods, other than '
      'retrain and those that rewind; --preset changes settings.'
    )
  presets = choice.presets(
    names[1:], method_flags.PRESET.value, scope=scope, rate_scale=rate_scale
  )
  return names[1:], presets


def forget(
  job: jobs.Job,
  name: str,
  params: Params,
  rows: np.ndarray,
  groups: np.ndarray,
  seen: np.ndarray,
) -> shadow_report.Judged:
  """Lets every member forget a share of what it saw, and scores them.

  Args:
    job: of the population.
    name: of the method.
    params: of the trained members, [members, ...].
    rows: the training utterances.
    groups: [rows], what is forgotten together.
    seen: [members, rows] bool.

  Raises:
    InputError: if there are fewer groups than parts.
  """
  fraction, parts = FORGET_FRACTION.value, FORGET_PARTS.value
  share = design.forget_design(seen, groups, fraction=fraction, seed=1)
  try:
    cut = design.cut(share, groups, parts=parts, seed=1)
  except ValueError as error:
    raise InputError(f'--forget_parts={parts}: {error}') from error
  # A run is one member that forgets one part.
  member = np.repeat(np.arange(len(seen)), parts)
  forgotten, saw = cut.reshape(-1, len(rows)), seen[member]
  made = f'{name.replace(":", "_")}_{fraction:g}'
  if parts > 1:
    made += f'_in_{parts}'
  if method_flags.PRESET.value:  # Other settings, other members.
    preset = repr(job.runner.presets[name])
    made += f'_{zlib.crc32(preset.encode()):08x}'
  shadow_members.save(
    job.workdir / f'forgotten_{made}.npz', forgotten=forgotten
  )
  params_u = _unlearn(
    job,
    name,
    jax.tree.map(lambda x: x[member], params),
    [(rows[f], rows[s & ~f]) for f, s in zip(forgotten, saw, strict=True)],
    made,
  )
  scored = shadow_members.score(
    job, params_u, job.workdir / f'logits_{made}.npz', rows
  )
  # Both worlds ran the method; one on this utterance, one on others. Of a
  # member that never saw it, one run counts.
  runs = scored.confidence.reshape(cut.shape)
  turn = np.arange(len(rows)) % parts == np.arange(parts)[:, None]
  phi_u, phi_r = (np.where(of, runs, 0.0).sum(1) for of in (cut, turn))
  return shadow_report.Judged(
    name,
    shadow_report.Population(scored, kept=saw & ~forgotten, runs=parts),
    Worlds(phi_u, share, phi_r, ~seen),
  )


def _unlearn(
  job: jobs.Job,
  name: str,
  params: Params,
  sets: Sequence[tuple[np.ndarray, np.ndarray]],
  made: str,
) -> Params:
  """Runs the method from each of `params`, on forget and retain rows."""
  spec, preset = registry.spec(name), job.runner.presets[name]

  def epoch_batches(run, epoch):
    seed = run, zlib.crc32(name.encode())
    return spec.epoch_batches(preset, *sets[run], epoch=epoch, seed=seed)

  with shadow_members.execution(
    job.workdir / f'members_{made}', len(sets) * preset.epochs
  ) as execution:
    return train.unlearn_population(
      job.runner.method(name),
      params,
      epoch_batches,
      range(len(sets)),
      job.task.examples,
      epochs=preset.epochs,
      prepare_batches=lambda run: spec.prepare_batches(preset, *sets[run]),
      execution=execution,
    )
