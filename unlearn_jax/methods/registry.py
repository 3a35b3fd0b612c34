"""Unlearning methods by name. A new method is one file and one row.

A row says how to build the rule, what data it looks at, how its batches are
laid out and the preset that works on the corpora here.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

import optax

from unlearn_jax.methods.bad_teacher import bad_teacher
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.neg_grad_plus import neg_grad_plus
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.retrain import retrain
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.types import (
  InitParamsFn,
  InputError,
  LossFn,
  PredictFn,
  UnlearningMethod,
)


@dataclasses.dataclass(frozen=True)
class Problem:
  """All that a method may know of a model.

  Attributes:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    init_fn: maps a key to fresh parameters.
  """

  loss_fn: LossFn
  predict_fn: PredictFn
  init_fn: InitParamsFn


@dataclasses.dataclass(frozen=True)
class Preset:
  """Settings of one run of a method.

  Attributes:
    epochs: passes over the longer of the two sets that the method sees.
    learning_rate: of AdamW, constant.
    weight_decay: of AdamW.
    clip_norm: bound on the norm of the direction.
    forget_batch: forget examples a step.
    retain_batch: retain examples a step.
    retain_fraction: share of the retain set that is used, drawn once.
    forget_epochs: epochs in which the forget set is swept, for a method that
      alternates; None is all.
    options: of the method's factory.
  """

  epochs: int
  learning_rate: float
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  forget_batch: int = 64
  retain_batch: int = 100
  retain_fraction: float = 1.0
  forget_epochs: int | None = None
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def optimizer(self) -> optax.GradientTransformation:
    """AdamW after clipping; `learning_rate` is an array in its state."""

    def transform(learning_rate):
      return optax.chain(
        optax.clip_by_global_norm(self.clip_norm),
        optax.adamw(learning_rate, weight_decay=self.weight_decay),
      )

    return optax.inject_hyperparams(transform)(learning_rate=self.learning_rate)


@dataclasses.dataclass(frozen=True)
class MethodSpec:
  """A row of the registry.

  Attributes:
    build: maps (problem, tx, **options) to the method.
    needs: the sets it looks at; it is given None for the other.
    preset: what works on the corpora here; None for retraining, which has the
      recipe of the original model.
    summary: one line for tables.
    layout: 'joint' or 'alternate', see `methods.schedule`.
    rewinds: whether the experiment picks the epoch by `scrub.rewind`.
  """

  build: Callable[..., UnlearningMethod]
  needs: frozenset[Literal['forget', 'retain']]
  preset: Preset | None
  summary: str
  layout: Literal['joint', 'alternate'] = 'joint'
  rewinds: bool = False


_FORGET = frozenset({'forget'})
_RETAIN = frozenset({'retain'})
_BOTH = _FORGET | _RETAIN

_SCRUB = Preset(
  epochs=6,
  learning_rate=5e-4,
  forget_epochs=3,
  options={'loss_weight': 1.0, 'distill_weight': 0.5, 'temperature': 2.0},
)


def _build_salun(problem, tx, *, fraction, **options):
  inner = random_label(problem.loss_fn, problem.predict_fn, tx, **options)
  return salun(inner, problem.loss_fn, fraction=fraction)


def _build_scrub(problem, tx, **options):
  return scrub(problem.loss_fn, problem.predict_fn, tx, **options)


METHODS: dict[str, MethodSpec] = {
  'retrain': MethodSpec(
    build=lambda p, tx, **o: retrain(p.loss_fn, tx, p.init_fn, **o),
    needs=_RETAIN,
    preset=None,
    summary='a fresh model trained on the retain set: the reference',
  ),
  'fine_tune': MethodSpec(
    build=lambda p, tx: fine_tune(p.loss_fn, tx),
    needs=_RETAIN,
    preset=Preset(epochs=5, learning_rate=1e-3),
    summary='goes on training on the retain set',
  ),
  'gradient_ascent': MethodSpec(
    build=lambda p, tx, **o: gradient_ascent(p.loss_fn, tx, **o),
    needs=_FORGET,
    preset=Preset(epochs=5, learning_rate=1e-4, options={'max_loss': 3.0}),
    summary='raises the loss of the forget set',
  ),
  'neg_grad_plus': MethodSpec(
    build=lambda p, tx, **o: neg_grad_plus(p.loss_fn, tx, **o),
    needs=_BOTH,
    preset=Preset(
      epochs=3, learning_rate=5e-4, options={'retain_weight': 0.95}
    ),
    summary='raises the forget loss while lowering the retain loss',
  ),
  'random_label': MethodSpec(
    build=lambda p, tx, **o: random_label(p.loss_fn, p.predict_fn, tx, **o),
    needs=_BOTH,
    preset=Preset(epochs=3, learning_rate=5e-4, options={'retain_weight': 1.0}),
    summary='teaches wrong labels for the forget set',
  ),
  'bad_teacher': MethodSpec(
    build=lambda p, tx, **o: bad_teacher(p.predict_fn, p.init_fn, tx, **o),
    needs=_BOTH,
    preset=Preset(epochs=3, learning_rate=5e-4, retain_fraction=0.3),
    summary='imitates a random network on the forget set',
  ),
  'scrub': MethodSpec(
    build=_build_scrub,
    needs=_BOTH,
    preset=_SCRUB,
    summary='moves away from the original model on the forget set',
    layout='alternate',
  ),
  'scrub_rewind': MethodSpec(
    build=_build_scrub,
    needs=_BOTH,
    preset=_SCRUB,
    summary='SCRUB, back to the epoch that forgets as much as unseen data',
    layout='alternate',
    rewinds=True,
  ),
  'salun': MethodSpec(
    build=_build_salun,
    needs=_BOTH,
    preset=Preset(
      epochs=3,
      learning_rate=5e-4,
      options={'retain_weight': 1.0, 'fraction': 0.5},
    ),
    summary='random label on the weights that the forget set cares for',
  ),
}


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
