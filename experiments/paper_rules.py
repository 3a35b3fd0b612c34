r"""The rules of "Speech Unlearning" as published, suspected artefact included.

These replicate tables; none is a method of this library. Each stands for

.. math:: J = \frac{\sum_f L_f + \lambda \sum_r L_r}{n_f + \lambda n_r},
  \quad \lambda \in \{0, 1\}

over a batch of both sets, in which D_f has about its share of the training
set: as one epoch there is one pass over both. With lambda 0 it is a pass over
D_f alone.

| rule | L_f | L_r |
|---|---|---|
| GradAscent | minus the loss, without bound | |
| RandLabel | loss of the label (y + 1) mod C | loss |
| Bad-T | D(random network, student) | D(original, student) |
| SCRUB | -D(original, student), in max-steps | loss + D(original, student) |

SCRUB takes all its max-steps first, and a quarter of the epochs for these and
for the min-steps each, since the public code halves them twice.

D is a divergence, twice: `kl_divergence` as in the rules of the library, and
`raw_logit_kl`, the suspected artefact, which is wrong on purpose. Bad-T and
SCRUB are run with each at the same settings, so that what follows from the
divergence and what follows from the rule can be told apart.

References:
  Cheng and Amiri, 2025, https://arxiv.org/abs/2506.00848, sections 3 and 4.
  Cheng and Amiri, 2024 (MU-Bench), https://arxiv.org/abs/2406.14796; that its
  public code made those tables is not known.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.methods import base
from unlearn_jax.methods import schedule
from unlearn_jax.methods.bad_teacher import bad_teacher
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.spec import Problem
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import InputError, Params, Side, UnlearningMethod

Build = Callable[[Problem, optax.GradientTransformation], UnlearningMethod]
_BOTH: tuple[Side, Side] = ('forget', 'retain')
_NUDGE = 1e-3


def raw_logit_kl(target_logits: jax.Array, logits: jax.Array) -> jax.Array:
  r"""Returns what is left of a KL routine that is given raw logits. Wrong.

  A routine that expects log-probabilities s and probabilities t computes
  :math:`\sum_c t_c (\log t_c - s_c)`. Given logits it has

  .. math:: -\sum_c t_c s_c

  and a term without gradient, left out here since it is no number where a logit
  is negative. The gradient with respect to the student's logits is -t whatever
  they are: a constant push without bound.

  Args:
    target_logits: t, [batch, classes].
    logits: s, [batch, classes].

  Returns:
    [batch], of any sign.
  """
  return -(target_logits * logits).sum(-1)


def _mean_of_both(forget_values, retain_values, forget, retain):
  """Returns the mean over the examples of both batches."""
  return masked_mean(
    jnp.concatenate([forget_values, retain_values]),
    jnp.concatenate([forget['mask'], retain['mask']]),
  )


def shifted_label(
  problem: Problem, tx: optax.GradientTransformation
) -> UnlearningMethod:
  """RandLabel as published: its label is not random, but (y + 1) mod C."""
  loss_fn = problem.loss_fn

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key, frozen, hyper
    logits = jax.eval_shape(problem.predict_fn, params, forget)
    label = (forget['label'] + 1) % logits.shape[-1]

    def objective(params):
      wrong = loss_fn(params, {**forget, 'label': label})
      return _mean_of_both(wrong, loss_fn(params, retain), forget, retain)

    loss, gradient = jax.value_and_grad(objective)(params)
    return gradient, {'loss': loss}

  return base.from_direction(direction_fn, tx, needs=_BOTH)


def raw_bad_teacher(
  problem: Problem, tx: optax.GradientTransformation
) -> UnlearningMethod:
  """Wrong twin of `bad_teacher`: its KL is given raw logits."""
  predict_fn = problem.predict_fn

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key, hyper
    bad = predict_fn(frozen['bad'], forget)
    good = predict_fn(frozen['good'], retain)

    def objective(params):
      to_bad = raw_logit_kl(bad, predict_fn(params, forget))
      to_good = raw_logit_kl(good, predict_fn(params, retain))
      return _mean_of_both(to_bad, to_good, forget, retain)

    value, gradient = jax.value_and_grad(objective)(params)
    return gradient, {'raw_logit_kl': value}

  def freeze(params, key):
    return {'good': params, 'bad': problem.init_fn(key)}

  return base.from_direction(direction_fn, tx, freeze=freeze, needs=_BOTH)


def raw_scrub(
  problem: Problem, tx: optax.GradientTransformation
) -> UnlearningMethod:
  """Wrong twin of `scrub`: its KL is given raw logits."""

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key, hyper

    def push(params, batch):
      teacher = problem.predict_fn(frozen, batch)
      raw = raw_logit_kl(teacher, problem.predict_fn(params, batch))
      return masked_mean(raw, batch['mask'])

    def min_objective(params):
      loss = masked_mean(problem.loss_fn(params, retain), retain['mask'])
      return loss + push(params, retain)

    def objective(params):
      forget_push = base.if_any(forget['mask'], lambda: push(params, forget))
      retained = base.if_any(retain['mask'], lambda: min_objective(params))
      return retained - forget_push

    value, gradient = jax.value_and_grad(objective)(params)
    return gradient, {'objective': value}

  return base.from_direction(
    direction_fn, tx, freeze=lambda params, key: params, needs=_BOTH
  )


@dataclasses.dataclass(frozen=True)
class Rule:
  """A row of the table.

  Attributes:
    name, title: of the folder and of the row.
    build: maps (problem, tx) to the rule.
    retain_weight: lambda, 0 or 1.
    is_artefact: whether it is one of the wrong twins.
    has_phases: whether all steps on D_f come first, then those on D_r.
  """

  name: str
  title: str
  build: Build
  retain_weight: int
  is_artefact: bool = False
  has_phases: bool = False

  def epochs(self, epochs: int) -> int:
    """Returns how many it runs where the flag says `epochs`."""
    if not self.has_phases:
      return epochs
    return max(1, epochs // 4) * (1 + self.retain_weight)

  def start(self, original: Params, key: jax.Array) -> Params:
    """Returns where the student begins: at the original, or close to it.

    A student that equals its teacher is where the KL is least and has no
    gradient, so max-steps that come first would never move it. Networks with
    dropout, as in the paper, never equal their teacher; ours do, so a rule with
    phases begins one part in a thousand beside it, at random.
    """
    if not self.has_phases:
      return original
    leaves, tree = jax.tree.flatten(original)
    keys = jax.random.split(key, len(leaves))
    nudged = [
      x * (1 + _NUDGE * jax.random.normal(k, x.shape, x.dtype))
      for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, nudged)

  def epoch_batches(
    self,
    forget: np.ndarray,
    retain: np.ndarray,
    *,
    epoch: int,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
  ) -> tuple[IndexBatches | None, IndexBatches | None]:
    """Lays out one epoch; a set that it leaves out is padding alone.

    Args:
      forget: [n] rows.
      retain: [n] rows.
      epoch: from 0, below `self.epochs(epochs)`.
      epochs: of the flag.
      batch_size: examples a step, of both sets together, at least 2.
      rng: shuffles both.
    """
    if not self.retain_weight:
      first = batches.one_pass(forget, batch_size, rng)
      return first, batches.empty(len(first.rows), 1)
    if self.has_phases:
      is_max = 2 * epoch < self.epochs(epochs)
      return schedule.alternate(
        forget if is_max else forget[:0],
        retain[:0] if is_max else retain,
        forget_batch=batch_size,
        retain_batch=batch_size,
        rng=rng,
      )
    share = batch_size * len(forget) / (len(forget) + len(retain))
    forget_batch = min(max(round(share), 1), batch_size - 1)
    return schedule.joint(
      forget,
      retain,
      forget_batch=forget_batch,
      retain_batch=batch_size - forget_batch,
      rng=rng,
    )


_KL = {'raw': 'raw-logit KL (suspected artefact)', 'kl': 'correct KL'}


def _pairs(name, title, *builds, **options):
  """Yields a rule with either divergence, with lambda 1 and 0."""
  for weight in (1, 0):
    for (kind, words), build in zip(_KL.items(), builds, strict=True):
      yield Rule(
        f'{name}_{kind}_{weight}',
        f'{title}, {words}, lambda {weight}',
        build,
        weight,
        is_artefact=kind == 'raw',
        **options,
      )


def _ascent(problem, tx):
  return gradient_ascent(problem.loss_fn, tx)


def _correct_bad_teacher(problem, tx):
  return bad_teacher(problem.predict_fn, problem.init_fn, tx)


def _correct_scrub(problem, tx):
  as_its_twin = {'distill_weight': 1.0, 'temperature': 1.0}
  return scrub(problem.loss_fn, problem.predict_fn, tx, **as_its_twin)


_ALL: tuple[Rule, ...] = (
  Rule('grad_ascent', 'GradAscent, lambda 0', _ascent, 0),
  Rule('rand_label', 'RandLabel, (y + 1) mod C, lambda 1', shifted_label, 1),
  *_pairs('bad_t', 'Bad-T', raw_bad_teacher, _correct_bad_teacher),
  *_pairs('scrub', 'SCRUB', raw_scrub, _correct_scrub, has_phases=True),
)
RULES = {rule.name: rule for rule in _ALL}


def parse(text: str) -> tuple[Rule, ...]:
  """Returns the rules of a comma list, or all.

  Raises:
    InputError: if there is no such rule.
  """
  names = list(RULES) if text == 'all' else text.split(',')
  for name in names:
    if name not in RULES:
      raise InputError(
        f'--rules={text}: {name!r} is none of all, {", ".join(RULES)}.'
      )
  return tuple(RULES[name] for name in dict.fromkeys(names))
