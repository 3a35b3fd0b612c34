"""Methods and settings as a user names them on a command line."""

from collections.abc import Collection, Sequence

from unlearn_jax.methods.preset import override
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.registry import METHODS
from unlearn_jax.methods.registry import spec
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.spec import Problem
from unlearn_jax.methods.wrappers import WRAPPERS
from unlearn_jax.types import InputError, Scope


def _nothing(*args):
  raise NotImplementedError


_NO_PROBLEM = Problem(
  _nothing,
  _nothing,
  _nothing,
  blocks=('',) * 1_000,
  embed_fn=_nothing,
  embedding_size=1,
  map_embedding_fn=_nothing,
)


def parse(
  text: str,
  *,
  with_class_rules: bool = True,
  unfit: Collection[str] = (),
  flag: str = '--methods',
) -> tuple[str, ...]:
  """Returns the names in a comma list, in which 'all' is every row.

  A name is a method, or `wrapper:method`; `method[field=value;...]` is the same
  with other settings than it would have, and the method runs too. `retrain`
  always comes first: it is the reference of the others.

  Args:
    text: the list.
    with_class_rules: whether rules are allowed that make sense only for
      requests that remove whole classes; if not, 'all' leaves them out.
    unfit: methods that the network cannot run, which 'all' leaves out too.
    flag: the name of the flag, for messages.

  Raises:
    InputError: if a name is not in the registry, or not allowed.
  """
  names = [name.strip() for name in text.split(',') if name.strip()]
  everyone = [
    name
    for name in METHODS
    if name not in unfit and (with_class_rules or not spec(name).for_classes)
  ]
  names = [n for name in names for n in (everyone if name == 'all' else [name])]
  names = [n for name in names for n in dict.fromkeys((base(name), name))]
  for name in names:
    if base(name).rpartition(':')[2] in unfit:
      raise InputError(
        f'{flag}: {name!r} needs a linear last layer, or embeddings that a '
        'linear layer makes, and this network has none.'
      )
    row = _spec(name, flag)
    if row.preset is None and name != base(name):
      raise InputError(f'{flag}: {name!r}: {base(name)} has no settings.')
    if row.for_classes and not with_class_rules:
      raise InputError(
        f'{flag}: {name!r} is for requests that remove whole classes, and '
        'this one removes none.'
      )
  if not names:
    raise InputError(f'{flag}={text!r}: must be all or a comma list.')
  return tuple(dict.fromkeys(['retrain', *names]))


def base(name: str) -> str:
  """Returns the method of 'method[field=value]', or the name itself."""
  return name.partition('[')[0]


def changed(preset: Preset, name: str) -> Preset:
  """Returns the preset with what brackets in the name of a method say.

  Args:
    preset: of the method.
    name: 'method' or 'method[field=value;field=value]'.

  Raises:
    InputError: if there is no such field, or the value does not fit it.
  """
  method, bracket, rest = name.partition('[')
  if not bracket:
    return preset
  for change in rest.removesuffix(']').split(';'):
    field, equals, value = change.partition('=')
    if not (equals and rest.endswith(']')):
      raise InputError(
        f'--methods: {name!r} must be method[field=value;field=value].'
      )
    preset = _override(preset, method, field, value, f'--methods: {name}')
  return preset


def _override(preset, method, field, value, text):
  preset = override(preset, field, value, text)
  try:  # A factory knows the bounds of its options, and traces nothing.
    spec(method).build(_NO_PROBLEM, preset.optimizer(), **preset.options)
  except ValueError as error:
    raise InputError(f'{text}: {error}') from error
  return preset


def _spec(name: str, flag: str) -> MethodSpec:
  """Returns a row, or raises an InputError."""
  try:
    return spec(name)
  except KeyError:
    wrappers = ', '.join(WRAPPERS)
    raise InputError(
      f'{flag}: {name!r} is none of {", ".join(METHODS)}, or all; a wrapper '
      f'may stand before it, as in rewind:npo: {wrappers}.'
    ) from None
  except ValueError as error:
    raise InputError(f'{flag}: {name!r}: {error}') from error


def presets(
  names: Sequence[str],
  overrides: Sequence[str] = (),
  *,
  scope: Scope = 'sample',
  rate_scale: float = 1.0,
) -> dict[str, Preset]:
  """Returns the preset of each method, changed as asked.

  Args:
    names: in the registry; those without a preset are left out.
    overrides: each 'method.field=value', for instance
      'scrub.learning_rate=1e-4'; fields are those of `Preset` and the method's
      own options. They may be of any method.
    scope: what the request forgets.
    rate_scale: of all learning rates, where a network is trained by other rates
      than those that the presets were found for; before the overrides.

  Raises:
    InputError: if an override is malformed or names what does not exist.
  """
  chosen: dict[str, Preset] = {}
  for name in dict.fromkeys([*METHODS, *map(base, names)]):
    preset = spec(name).preset_for(scope)
    if preset is not None:
      chosen[name] = preset.with_rate_scale(rate_scale)
  for text in overrides:
    target, equals, value = text.partition('=')
    name, dot, field = target.partition('.')
    if not (equals and dot):
      raise InputError(f'--preset={text}: must be method.field=value.')
    if name not in chosen:
      raise InputError(
        f'--preset={text}: {name!r} is none of {", ".join(chosen)}.'
      )
    chosen[name] = _override(
      chosen[name], name, field, value, f'--preset={text}'
    )
  return {
    name: changed(chosen[base(name)], name)
    for name in names
    if base(name) in chosen
  }
