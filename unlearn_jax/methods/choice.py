"""Methods and settings as a user names them on a command line."""

from collections.abc import Sequence

from unlearn_jax.methods.preset import override
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.registry import METHODS
from unlearn_jax.methods.spec import Problem
from unlearn_jax.types import InputError


def _nothing(*args):
  raise NotImplementedError


_NO_PROBLEM = Problem(_nothing, _nothing, _nothing)


def parse(text: str) -> tuple[str, ...]:
  """Returns the names in a comma list; 'all' is every row.

  `retrain` always comes first: it is the reference of the others.

  Raises:
    InputError: if a name is not in the registry.
  """
  names = [name.strip() for name in text.split(',') if name.strip()]
  if names == ['all']:
    return tuple(METHODS)
  for name in names:
    if name not in METHODS:
      raise InputError(
        f'--methods: {name!r} is none of {", ".join(METHODS)}, or all.'
      )
  if not names:
    raise InputError(f'--methods={text!r}: must be all or a comma list.')
  return tuple(dict.fromkeys(['retrain', *names]))


def presets(
  names: Sequence[str],
  overrides: Sequence[str] = (),
  *,
  removes_classes: bool = False,
) -> dict[str, Preset]:
  """Returns the preset of each method, changed as asked.

  Args:
    names: in the registry; those without a preset are left out.
    overrides: each 'method.field=value', for instance
      'scrub.learning_rate=1e-4'; fields are those of `Preset` and the method's
      own options. They may be of any method.
    removes_classes: whether the request removes whole classes.

  Raises:
    InputError: if an override is malformed or names what does not exist.
  """
  chosen: dict[str, Preset] = {}
  for name, spec in METHODS.items():
    if spec.preset is not None:
      special = spec.class_preset if removes_classes else None
      chosen[name] = special or spec.preset
  for text in overrides:
    target, equals, value = text.partition('=')
    name, dot, field = target.partition('.')
    if not (equals and dot):
      raise InputError(f'--preset={text}: must be method.field=value.')
    if name not in chosen:
      raise InputError(
        f'--preset={text}: {name!r} is none of {", ".join(chosen)}.'
      )
    chosen[name] = override(chosen[name], field, value, text)
    try:  # A factory knows the bounds of its options, and traces nothing.
      METHODS[name].build(
        _NO_PROBLEM, chosen[name].optimizer(), **chosen[name].options
      )
    except ValueError as error:
      raise InputError(f'--preset={text}: {error}') from error
  return {name: chosen[name] for name in names if name in chosen}
