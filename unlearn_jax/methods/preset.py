"""Settings of one run of a method."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.training.recipe import warmup_cosine
from unlearn_jax.types import InputError

Algorithm = Literal['adamw', 'sgd']
Schedule = Literal['constant', 'cosine']
_MOMENTUM = 0.9
# What `calibrate` may replace: given by hand, it stays.
_CALIBRATED = ('slope', 'offset')
_COUNTS = ('epochs', 'forget_batch', 'retain_batch', 'forget_epochs')


@dataclasses.dataclass(frozen=True)
class Preset:
  """Settings of one run of a method.

  Attributes:
    epochs: passes over the longer of the two sets that the method sees.
    learning_rate: of the optimizer; where `schedule` is 'cosine', after a
      warm-up over a tenth of the steps and before a decay to 0.
    weight_decay: of the weights, times the learning rate a step.
    clip_norm: bound on the norm of the direction.
    forget_batch: forget examples a step.
    retain_batch: retain examples a step.
    retain_fraction: share of the retain set that is used, drawn once.
    forget_epochs: epochs in which the forget set is swept, for a method that
      alternates; None is all.
    schedule: 'constant' or 'cosine'.
    algorithm: 'adamw', or 'sgd' with momentum 0.9.
    calibrate: take what a method can read off recordings that models never
      heard, see `MethodSpec.from_unheard`, in the place of its options, where
      there are some of the kind that is forgotten.
    options: of the method's factory, all that one may override.
    rate_scale: what `with_rate_scale` multiplied the learning rate by; a search
      multiplies its range likewise.
  """

  epochs: int
  learning_rate: float
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  forget_batch: int = 64
  retain_batch: int = 100
  retain_fraction: float = 1.0
  forget_epochs: int | None = None
  schedule: Schedule = 'constant'
  algorithm: Algorithm = 'adamw'
  calibrate: bool = False
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rate_scale: float = 1.0

  def __post_init__(self):
    """Raises ValueError where a value is out of bounds."""
    for name, low in (
      ('epochs', 0),
      ('learning_rate', 0),
      ('weight_decay', 0),
      ('forget_batch', 1),
      ('retain_batch', 1),
      ('forget_epochs', 0),
    ):
      value = getattr(self, name)
      if value is not None and not low <= value < float('inf'):
        raise ValueError(f'{name} must be >= {low}, got {value}.')
    if not self.clip_norm > 0:
      raise ValueError(f'clip_norm must be > 0, got {self.clip_norm}.')
    if not 0 < self.retain_fraction <= 1:
      raise ValueError(
        f'retain_fraction must be in (0, 1], got {self.retain_fraction}.'
      )
    for name, allowed in (
      ('schedule', ('constant', 'cosine')),
      ('algorithm', ('adamw', 'sgd')),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(
          f'{name} must be {allowed[0]!r} or {allowed[1]!r}, got {value!r}.'
        )

  def optimizer(self) -> optax.GradientTransformation:
    """The algorithm after clipping; `learning_rate` is an array in its state.

    So are the steps of the run where the schedule is cosine: set them with
    `recipe.set_total_steps` before the first step.
    """

    def transform(learning_rate, total_steps=None):
      rate = learning_rate
      if total_steps is not None:

        def rate(count):
          return learning_rate * warmup_cosine(count, total_steps, 0.1)

      return self._clipped(self._descent(self.algorithm, rate))

    hyper = {'learning_rate': self.learning_rate}
    if self.schedule == 'cosine':
      hyper['total_steps'] = 1.0
    return optax.inject_hyperparams(transform)(**hyper)

  def with_rate_scale(self, scale: float) -> 'Preset':
    """Returns the preset with a learning rate `scale` times as large."""
    return dataclasses.replace(
      self,
      learning_rate=scale * self.learning_rate,
      rate_scale=scale * self.rate_scale,
    )

  def searched_optimizer(self) -> optax.GradientTransformation:
    """Every optimizer that a preset may name, as one.

    Which it is lies in the state beside `learning_rate`: `is_sgd` and
    `is_cosine`, 0 or 1, and `total_steps`, which counts under a schedule.
    """

    def transform(learning_rate, total_steps, is_sgd, is_cosine):
      def rate(count):
        cosine = warmup_cosine(count, total_steps, 0.1)
        return learning_rate * jnp.where(is_cosine > 0, cosine, 1.0)

      sgd, adamw = (self._descent(name, rate) for name in ('sgd', 'adamw'))
      return self._clipped(_either(is_sgd, sgd, adamw))

    return optax.inject_hyperparams(transform)(
      learning_rate=self.learning_rate,
      total_steps=1.0,
      is_sgd=float(self.algorithm == 'sgd'),
      is_cosine=float(self.schedule == 'cosine'),
    )

  def _clipped(self, descent):
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), descent)

  def _descent(self, algorithm, rate):
    if algorithm == 'adamw':
      return optax.adamw(rate, weight_decay=self.weight_decay)
    return optax.chain(
      optax.trace(_MOMENTUM),
      optax.add_decayed_weights(self.weight_decay),
      optax.scale_by_learning_rate(rate),
    )


def _either(is_first, first, second):
  """Follows one of two transforms; both keep their states."""

  def init_fn(params):
    return first.init(params), second.init(params)

  def update_fn(updates, state, params=None):
    made = [
      tx.update(updates, own, params)
      for tx, own in zip((first, second), state, strict=True)
    ]
    (one, own), (other, its) = made
    chosen = jax.tree.map(
      lambda a, b: jnp.where(is_first > 0, a, b), one, other
    )
    return chosen, (own, its)

  return optax.GradientTransformation(init_fn, update_fn)


def override(preset: Preset, field: str, text_value: str, text: str) -> Preset:
  """Returns a preset with one value changed.

  Args:
    preset: what to change.
    field: an attribute of `Preset`, or one of its options.
    text_value: the new value, as written.
    text: the flag or name that the user wrote, for the error.

  Raises:
    InputError: if there is no such field, or the value does not fit it.
  """
  hidden = {'options', 'rate_scale'}
  fields = {f.name for f in dataclasses.fields(Preset)} - hidden
  allowed = sorted(fields | set(preset.options))
  if field not in allowed:
    raise InputError(f'{text}: {field!r} is none of {", ".join(allowed)}.')
  is_option = field in preset.options
  old = preset.options[field] if is_option else getattr(preset, field)
  try:
    value = _parse(text_value, int if field in _COUNTS else type(old))
    if is_option:
      return dataclasses.replace(
        preset,
        options={**preset.options, field: value},
        calibrate=preset.calibrate and field not in _CALIBRATED,
      )
    return dataclasses.replace(preset, **{field: value})
  except ValueError as error:
    raise InputError(f'{text}: {error}') from error


def _parse(text: str, kind: type) -> Any:
  """Reads a value of a type, or raises a ValueError that says what it is."""
  if kind is str:
    return text
  if kind is bool:
    if text.lower() not in ('true', 'false'):
      raise ValueError('the value must be true or false.')
    return text.lower() == 'true'
  try:
    number = float(text)
  except ValueError:
    raise ValueError('the value must be a number.') from None
  if kind is int:
    if not (number >= 0 and number.is_integer()):
      raise ValueError('the value must be a whole number, at least 0.')
    return int(number)
  return number
