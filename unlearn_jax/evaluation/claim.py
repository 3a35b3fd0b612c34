"""A claim, and what came of it."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Literal

from unlearn_jax.evaluation.metric_card import MetricCard

Verdict = Literal['supported', 'not supported', 'not tested']


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim, how it is tested and what came of it.

  Attributes:
    name: for instance 'C1'.
    text: what is claimed.
    rule: when it counts as supported.
    verdict: what came of it.
    evidence: sentences.
  """

  name: str
  text: str
  rule: str
  verdict: Verdict
  evidence: tuple[str, ...] = ()


def made(
  name: str, text: str, rule: str, evidence: Sequence[str], holds: bool
) -> Claim:
  """Returns a claim; without evidence it was not tested."""
  if not evidence:
    return Claim(name, text, rule, 'not tested')
  verdict: Verdict = 'supported' if holds else 'not supported'
  return Claim(name, text, rule, verdict, tuple(evidence))


def of_most(
  name: str, text: str, rule: str, evidence: Sequence[str], count: int, of: int
) -> Claim:
  """Returns a claim that holds if it does for most; of none, not tested."""
  return made(name, text, rule, evidence if of else (), count > of / 2)


def is_known(card: MetricCard | None) -> bool:
  """Says whether a card has a value with an interval."""
  return card is not None and not (
    math.isnan(card.value) or math.isnan(card.ci_low)
  )


def is_above(card: MetricCard) -> bool:
  """Says whether the interval of a card lies above that of its ideal."""
  top = card.ideal if math.isnan(card.ideal_ci_high) else card.ideal_ci_high
  return card.ci_low > top
