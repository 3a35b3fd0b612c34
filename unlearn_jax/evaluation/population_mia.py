"""Membership attacks on one model, by what it says of each example.

A higher score means "member", everywhere; what the paper counts is the
opposite, and its function says so.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
import sklearn.linear_model
import sklearn.model_selection
import sklearn.svm

from unlearn_jax.evaluation import roc

MAX_LOSS = 1e4
_LEAST_LOGISTIC = 20  # A tenth of each side must hold an example of it.
_MOST_FITTED = 500


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
  return np.minimum(np.nan_to_num(losses, nan=MAX_LOSS), MAX_LOSS)


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


class LossThreshold(NamedTuple):
  """What a threshold on the loss achieves; nan where it is not defined.

  Attributes:
    auc: area under the ROC curve; below 0.5 the members stand out by a loss
      that is too high, which serves an attacker as well.
    accuracy: balanced; the threshold is chosen on one half, and counted on the
      other, both ways.
    tpr_at_1e2: true positive rate at 1 percent false positives; nan with fewer
      than 1,000 non-members.
    tpr_at_1e3: the same at 0.1 percent; nan with fewer than 10,000.
  """

  auc: float
  accuracy: float
  tpr_at_1e2: float
  tpr_at_1e3: float


def loss_threshold(
  member_losses: np.ndarray, other_losses: np.ndarray, *, seed: int = 0
) -> LossThreshold:
  """Calls an example a member where its loss is low.

  Args:
    member_losses: [m], of the forget set.
    other_losses: [n], of examples that were never trained on and match the
      forget set, see `matching.match`.
    seed: of the halves.

  Returns:
    all nan if a side is empty, and no accuracy for a side of one.
  """
  members, others = -np.asarray(member_losses), -np.asarray(other_losses)
  accuracy = float('nan')
  if min(len(members), len(others)) >= 2:
    rng = np.random.default_rng(seed)
    halves = [
      np.array_split(rng.permutation(scores), 2) for scores in (members, others)
    ]
    found = []
    for fitted, attacked in ((0, 1), (1, 0)):
      threshold = best_threshold(halves[0][fitted], halves[1][fitted])
      found += [
        (halves[0][attacked] > threshold).mean(),
        (halves[1][attacked] <= threshold).mean(),
      ]
    accuracy = float(np.mean(found))
  return LossThreshold(
    roc.auc(members, others),
    accuracy,
    roc.tpr_at(members, others, 1e-2),
    roc.tpr_at(members, others, 1e-3),
  )


def loss_logistic(
  member_losses: np.ndarray, other_losses: np.ndarray, *, seed: int = 0
) -> float:
  """Accuracy of a logistic regression on the loss, over ten random splits.

  Each fits on nine tenths and counts on one; both sides are in both parts.

  Args:
    member_losses: [m], of the forget set.
    other_losses: [n], about as many.
    seed: of the splits.

  Returns:
    in [0, 1]; nan if a side has fewer than 20 examples.
  """
  if min(len(member_losses), len(other_losses)) < _LEAST_LOGISTIC:
    return float('nan')
  losses = np.concatenate([member_losses, other_losses])[:, None]
  is_member = np.arange(len(losses)) < len(member_losses)
  splits = sklearn.model_selection.StratifiedShuffleSplit(
    10, test_size=0.1, random_state=seed
  )
  model = sklearn.linear_model.LogisticRegression()
  return float(
    sklearn.model_selection.cross_val_score(
      model, losses, is_member, cv=splits
    ).mean()
  )


def confidence_features(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  r"""Returns what the five-feature attack looks at, float64 [n, 4 + classes].

  Correctness, confidence :math:`\max_c p_c`, entropy, and the modified entropy
  :math:`-(1 - p_y) \log p_y - \sum_{c \neq y} p_c \log(1 - p_c)` of Song &
  Mittal, 2021, https://arxiv.org/abs/2003.10595; then all probabilities.

  Args:
    logits: [n, classes].
    labels: [n] int.
  """
  logits = np.nan_to_num(np.asarray(logits, np.float64))
  log_p = np.maximum(scipy.special.log_softmax(logits, -1), -MAX_LOSS)
  p = np.exp(log_p)
  own = labels[:, None] == np.arange(logits.shape[-1])
  others = -np.expm1(log_p)  # 1 - p with its digits where p is near 1.
  log_rest = np.log(np.maximum(others, np.exp(-700.0)))
  modified = -np.where(own, others * log_p, p * log_rest).sum(-1)
  entropy = scipy.special.entr(p).sum(-1)
  right = logits.argmax(-1) == labels
  return np.column_stack([right, p.max(-1), entropy, modified, p])


def svc_five(
  forget: np.ndarray, retain: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> float:
  """Share of the forget set that a support vector machine calls non-members.

  With an RBF kernel, C = 3 and gamma = 1 / features. Members are retain
  examples, non-members test examples, balanced and at most 500 of each. The
  ideal is the value of a retrained model, not 1.

  Args:
    forget: `confidence_features` of the forget set [f, features].
    retain: of the retain set.
    test: of the test set.
    seed: of the choice of those that it is fitted on.

  Returns:
    in [0, 1]; nan if a set is empty.
  """
  return 1 - float(np.mean(_attacked(forget, retain, test, seed)))


def entropy_attack(
  forget: np.ndarray, retain: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> float:
  """Share of the forget set that the entropy alone makes look like members.

  Fitted, called and undefined as `svc_five` is; the ideal is the value of a
  retrained model.
  """
  forget, retain, test = (x[:, 2:3] for x in (forget, retain, test))
  return float(np.mean(_attacked(forget, retain, test, seed)))


def _attacked(forget, retain, test, seed):
  """Returns which of the forget set are called members; nan if undefined."""
  count = min(len(retain), len(test), _MOST_FITTED)
  if not len(forget) or not count:
    return np.full(1, np.nan)
  rng = np.random.default_rng(seed)
  fitted = [
    side[rng.choice(len(side), count, replace=False)] for side in (retain, test)
  ]
  model = sklearn.svm.SVC(C=3.0, gamma='auto')
  model.fit(np.concatenate(fitted), np.arange(2 * count) < count)
  return model.predict(forget)
