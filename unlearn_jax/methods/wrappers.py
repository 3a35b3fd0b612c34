"""Wrappers around any rule, by name: `wrapper:method`.

A wrapped rule is a row like the others, with the options of both.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from unlearn_jax.methods.blocks import matching
from unlearn_jax.methods.lora import lora
from unlearn_jax.methods.part import last_k
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.superloss import with_superloss
from unlearn_jax.types import Side, UnlearningMethod

Wrap = Callable[..., UnlearningMethod]  # Of (build, problem, tx, **options).


@dataclasses.dataclass(frozen=True)
class Wrapper:
  """A row of the registry of wrappers.

  Attributes:
    wrap: maps (build, problem, tx, **options), `build` being that of the inner
      row, to the method.
    summary: one line for tables.
    options: of the wrapper, with their defaults.
    needs: the sets it looks at beside those of the inner rule.
    rewinds: whether the experiment picks the epoch by `rewind.rewind`.
    weighs_losses: whether it works through the losses that the rule reads.
  """

  wrap: Wrap
  summary: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  needs: frozenset[Side] = frozenset()
  rewinds: bool = False
  weighs_losses: bool = False


def _saliency(build, problem, tx, **options):
  return salun(build(problem, tx), problem.loss_fn, **options)


def _superloss(build, problem, tx, **options):
  def inner(loss_fn):
    return build(dataclasses.replace(problem, loss_fn=loss_fn), tx)

  return with_superloss(inner, problem.loss_fn, **options)


def _lora(build, problem, tx, *, kernels, **options):
  select = matching(kernels) if kernels else None
  return lora(build, problem, tx, select=select, **options)


def _last_k(build, problem, tx, *, last):
  return last_k(build, problem, tx, k=last)


def _head(build, problem, tx):
  return last_k(build, problem, tx, k=1)


def _rewind(build, problem, tx):
  return build(problem, tx)


WRAPPERS: dict[str, Wrapper] = {
  'saliency': Wrapper(
    _saliency,
    'moves only the weights that the forget set cares for',
    options={'fraction': 0.5},
    needs=frozenset({'forget'}),
  ),
  'superloss': Wrapper(
    _superloss,
    'weighs examples down as their loss grows: structured forgetting',
    options={'regularisation': 10.0},
    weighs_losses=True,
  ),
  'lora': Wrapper(
    _lora,
    'moves a low-rank addition to the kernels',
    options={'rank': 8, 'scale': 16.0, 'kernels': ''},
  ),
  'last_k': Wrapper(
    _last_k,
    'moves the last blocks; the rest lies in memory once',
    options={'last': 2},
  ),
  'head': Wrapper(_head, 'moves the last layer alone'),
  'rewind': Wrapper(
    _rewind,
    'goes back to the epoch that forgets as much as unseen data',
    rewinds=True,
  ),
}


def wrapped(name: str, spec: MethodSpec) -> MethodSpec:
  """Returns the row of a rule inside a wrapper.

  Args:
    name: in `WRAPPERS`.
    spec: the row of the rule, with a preset.

  Raises:
    ValueError: if the rule is retraining, or SuperLoss is to weigh losses that
      the rule does not read.
  """
  wrapper = WRAPPERS[name]
  if spec.preset is None:
    raise ValueError('retrain cannot be wrapped.')
  if wrapper.weighs_losses and not spec.reads_losses:
    raise ValueError(f'{name} has no effect on a rule that reads no losses.')

  def build(problem, tx, **options):
    own = {key: options.pop(key) for key in wrapper.options}
    inner = functools.partial(spec.build, **options)
    return wrapper.wrap(inner, problem, tx, **own)

  def with_options(preset):
    options = {**preset.options, **wrapper.options}
    return dataclasses.replace(preset, options=options)

  return dataclasses.replace(
    spec,
    build=build,
    needs=spec.needs | wrapper.needs,
    preset=with_options(spec.preset),
    class_preset=spec.class_preset and with_options(spec.class_preset),
    group_preset=spec.group_preset and with_options(spec.group_preset),
    rewinds=spec.rewinds or wrapper.rewinds,
    summary=wrapper.summary,
  )
