"""Scores that join utility, forgetting and time in one number.

For comparison with published tables alone: retraining scores 0, since it takes
the time that it takes, so its score is no ideal.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Measured:
  """What the scores are made of.

  Attributes:
    f1: macro-F1 on the test set, in [0, 1].
    attack: accuracy of a membership attack on the forget set, in [0, 1].
    time_s: seconds, at least 0; of the original model it is not looked at.
  """

  f1: float
  attack: float
  time_s: float = 0.0


def gum(unlearned: Measured, retrained: Measured, original: Measured) -> float:
  """GUM: the harmonic mean of utility, forgetting and speed.

  In [0, 1], higher is better. Forgetting below 0 counts as 0. An attack that
  does better on the unlearned model than on the original counts as if it did as
  well: look at its accuracy, too.

  Source: https://arxiv.org/abs/2505.15700.

  Returns:
    0 where a part is 0; nan where the attack does no better on the original
    model than on the others: there is nothing to forget.
  """
  utility = 1 - abs(retrained.f1 - unlearned.f1)
  attack = min(unlearned.attack, original.attack)
  reference = min(retrained.attack, (attack + original.attack) / 2)
  if original.attack in (retrained.attack, reference):
    return float('nan')
  share = (attack - reference) / (original.attack - reference)
  forgetting = max(1 - share**2, 0.0)
  return _harmonic(utility, forgetting, _speed(unlearned, retrained))


def cgum(
  unlearned: Measured,
  retrained: Measured,
  original: Measured,
  *,
  classes: int,
) -> float:
  """CGUM: GUM's parts over their useful range, each clipped to [0, 1].

  In [0, 1], higher is better.

  Args:
    unlearned: the model in question.
    retrained: the reference.
    original: the model before unlearning.
    classes: of the task; a retrained F1 of 1 / classes or below gives nan.

  Returns:
    0 where a part is 0; nan where there is nothing to forget.
  """
  chance = 1 / classes
  if retrained.f1 <= chance or original.attack == retrained.attack:
    return float('nan')
  utility = (unlearned.f1 - chance) / (retrained.f1 - chance)
  bound = min if original.attack >= retrained.attack else max
  attack = bound(unlearned.attack, original.attack)
  gap = abs(attack - retrained.attack)
  forgetting = 1 - gap / abs(original.attack - retrained.attack)
  parts = utility, forgetting, _speed(unlearned, retrained)
  return _harmonic(*np.clip(parts, 0.0, 1.0))


def _speed(unlearned, retrained):
  """Returns one minus the ratio of the logarithms; 0 if it is no faster."""
  if unlearned.time_s >= retrained.time_s:
    return 0.0
  return 1 - np.log1p(unlearned.time_s) / np.log1p(retrained.time_s)


def _harmonic(*parts):
  if 0 in parts:
    return 0.0
  return float(len(parts) / sum(1 / part for part in parts))
