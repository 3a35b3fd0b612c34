"""Members of a population forget a share of what they saw."""

import dataclasses
from typing import Any
import zlib

from absl import flags
import jax
import numpy as np

from experiments import calibration
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

_PILOT = 8  # Members that run a method before all do.


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


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
  """A trained population.

  Attributes:
    params: of the members, [members, ...].
    rows: the training utterances.
    groups: [rows], what is forgotten together.
    seen: [members, rows] bool.
  """

  params: Params
  rows: np.ndarray
  groups: np.ndarray
  seen: np.ndarray


def calibrate(job: jobs.Job, name: str, members: Members) -> jobs.Job:
  """Returns the job with the options that a method reads off the members.

  Twice: off the trained members, then off a few that ran the method. A run
  changes what a model says of what it never heard, and the attacker compares
  with that.

  Args:
    job: of the population, whose logits are saved.
    name: of the method.
    members: of the population.

  Raises:
    InputError: if there are fewer groups than parts.
  """
  if not job.runner.presets[name].calibrate:
    return job
  seen, never = members.seen, ~members.seen
  trained, label = _logits(job, '', members.rows)

  def read(job, logits, never):
    heard = trained, seen
    preset = job.runner.presets[name]
    found = calibration.of_members(name, preset, heard, (logits, never), label)
    options = {**preset.options, **found}
    presets = {
      **job.runner.presets,
      name: dataclasses.replace(preset, options=options),
    }
    runner = job.runner.with_presets(presets)
    return dataclasses.replace(job, runner=runner), found

  job, found = read(job, trained, never)
  if not found:
    return job
  few = np.arange(min(_PILOT, len(seen)))
  made = f'_{_made(job, name)}_pilot'
  params = _unlearn(job, name, members, few, _cut(members)[few, 0], made)
  shadow_members.score(job, params, made, members.rows)
  said, _ = _logits(job, made, members.rows)
  job, found = read(job, said, never[few])
  said_of = ', '.join(f'{k} {v:.3g}' for k, v in found.items())
  print(f'{name}: read off the members: {said_of}', flush=True)
  return job


def forget(job: jobs.Job, name: str, members: Members) -> shadow_report.Judged:
  """Lets every member forget a share of what it saw, and scores them.

  Args:
    job: of the population.
    name: of the method.
    members: of the population.

  Raises:
    InputError: if there are fewer groups than parts.
  """
  rows, seen = members.rows, members.seen
  cut, parts = _cut(members), FORGET_PARTS.value
  # A run is one member that forgets one part.
  member = np.repeat(np.arange(len(seen)), parts)
  forgotten = cut.reshape(-1, len(rows))
  made = f'_{_made(job, name)}'
  shadow_members.save(job.workdir / f'forgotten{made}.npz', forgotten=forgotten)
  params = _unlearn(job, name, members, member, forgotten, made)
  scored = shadow_members.score(job, params, made, rows)
  # Both worlds ran the method; one on this utterance, one on others. Of a
  # member that never saw it, one run counts.
  runs = scored.confidence.reshape(cut.shape)
  turn = np.arange(len(rows)) % parts == np.arange(parts)[:, None]
  phi_u, phi_r = (np.where(of, runs, 0.0).sum(1) for of in (cut, turn))
  return shadow_report.Judged(
    name,
    shadow_report.Population(
      scored, kept=seen[member] & ~forgotten, runs=parts
    ),
    Worlds(phi_u, np.asarray(cut.any(1)), phi_r, ~seen),
  )


def _cut(members: Members) -> np.ndarray:
  """Returns what each member forgets, [members, parts, rows] bool."""
  parts = FORGET_PARTS.value
  share = design.forget_design(
    members.seen, members.groups, fraction=FORGET_FRACTION.value, seed=1
  )
  try:
    return design.cut(share, members.groups, parts=parts, seed=1)
  except ValueError as error:
    raise InputError(f'--forget_parts={parts}: {error}') from error


def _made(job: jobs.Job, name: str) -> str:
  """Returns the name of files of the members that ran a method."""
  made = f'{name.replace(":", "_")}_{FORGET_FRACTION.value:g}'
  if FORGET_PARTS.value > 1:
    made += f'_in_{FORGET_PARTS.value}'
  preset = job.runner.presets[name]
  if method_flags.PRESET.value or preset.calibrate:  # Other members.
    made += f'_{zlib.crc32(repr(preset).encode()):08x}'
  return made


def _logits(job, made, rows):
  """Returns saved logits [members, rows, classes], and labels [rows]."""
  with np.load(shadow_members.logits_path(job, made)) as saved:
    return saved['logits'][:, rows], saved['label'][rows]


def _unlearn(
  job: jobs.Job,
  name: str,
  members: Members,
  member: np.ndarray,
  forgotten: np.ndarray,
  made: str,
) -> Params:
  """Runs the method on `forgotten` [runs, rows], from members [runs]."""
  spec, preset = registry.spec(name), job.runner.presets[name]
  rows, saw = members.rows, members.seen[member]
  sets = [(rows[f], rows[s & ~f]) for f, s in zip(forgotten, saw, strict=True)]

  def epoch_batches(run, epoch):
    seed = run, zlib.crc32(name.encode())
    return spec.epoch_batches(preset, *sets[run], epoch=epoch, seed=seed)

  with shadow_members.execution(
    job.workdir / f'members{made}', len(sets) * preset.epochs
  ) as execution:
    return train.unlearn_population(
      job.runner.method(name),
      jax.tree.map(lambda x: x[member], members.params),
      epoch_batches,
      range(len(sets)),
      job.task.examples,
      epochs=preset.epochs,
      prepare_batches=lambda run: spec.prepare_batches(preset, *sets[run]),
      execution=execution,
    )
