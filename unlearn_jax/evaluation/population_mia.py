"""Membership attacks on one model, by the loss of each example.

A higher score means "member", everywhere; what the paper counts is the
opposite, and its function says so.
"""

import numpy as np

_MAX_LOSS = 1e4


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the loss of each example in nats, float64 [n], clipped to 1e4.

  Args:
    logits: [n, classes].
    labels: [n] int.
  """
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(-1, keepdims=True, initial=-np.inf)
  rows = np.arange(len(labels))
  losses = np.log(np.exp(shifted).sum(-1)) - shifted[rows, labels]
  return np.minimum(np.nan_to_num(losses, nan=_MAX_LOSS), _MAX_LOSS)


def best_threshold(members: np.ndarray, non_members: np.ndarray) -> float:
  """Returns the score above which "member" is right most often.

  The threshold lies midway between two neighbouring scores and has the largest
  balanced accuracy; of several the lowest.

  Args:
    members: [m] scores, higher for members.
    non_members: [n] scores.

  Raises:
    ValueError: if either is empty.
  """
  if not len(members) or not len(non_members):
    raise ValueError(
      f'members and non_members must not be empty, got {len(members)} and '
      f'{len(non_members)}.'
    )
  values = np.unique(np.concatenate([members, non_members]))
  edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
  missed = np.searchsorted(np.sort(members), edges)
  rejected = np.searchsorted(np.sort(non_members), edges)
  # Balanced accuracy in whole numbers, so that ties are ties.
  right = rejected * len(members) - missed * len(non_members)
  return float(edges[np.argmax(right)])


def paper_loss(
  forget_losses: np.ndarray,
  retain_losses: np.ndarray,
  test_losses: np.ndarray,
) -> float:
  """Share of the forget set that a loss attack calls non-members, in [0, 1].

  The attack of "Speech Unlearning" (Cheng & Amiri, Interspeech 2025, section
  4), which takes it for better when higher. The ideal is the value of a
  retrained model. The paper does not say on what the attack is fitted; here
  members are the retain set and non-members the test set, balanced.

  Args:
    forget_losses: [f].
    retain_losses: [r].
    test_losses: [t].

  Returns:
    nan if a set is empty.
  """
  if not (len(forget_losses) and len(retain_losses) and len(test_losses)):
    return float('nan')
  threshold = best_threshold(-retain_losses, -test_losses)
  return float(np.mean(-forget_losses < threshold))
