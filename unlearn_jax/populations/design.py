"""Which member of a population has seen which utterance.

For U-LiRA each utterance must be in the training sets of some members and out
of those of others. Members come in pairs with complementary halves, so that
every utterance is in exactly half of the training sets, and every training set
has about half of the utterances.
"""

import numpy as np


def half_design(
  num_members: int, groups: np.ndarray, *, seed: int
) -> np.ndarray:
  """Returns who sees what: each group is in half of the training sets.

  Args:
    num_members: even, at least 2.
    groups: [utterances], what goes in or out together: a number for each
      utterance, for each speaker or for each keyword.
    seed: of the design; the same gives the same matrix.

  Returns:
    [members, utterances] bool; columns of one group are equal, and each column
    is true for half of the members.

  Raises:
    ValueError: if the number of members is odd or below 2, or if there are
      fewer than two groups.
  """
  if num_members < 2 or num_members % 2:
    raise ValueError(f'num_members must be even and >= 2, got {num_members}.')
  names, group = np.unique(np.asarray(groups), return_inverse=True)
  if len(names) < 2:
    raise ValueError(f'there must be >= 2 groups, got {len(names)}.')
  rng = np.random.default_rng(seed)
  design = np.zeros((num_members, len(names)), bool)
  for pair in range(0, num_members, 2):
    inside = rng.permutation(len(names))[: len(names) // 2]
    design[pair, inside] = True
    design[pair + 1] = ~design[pair]
  return design[:, group]


def forget_design(
  seen: np.ndarray, groups: np.ndarray, *, fraction: float, seed: int
) -> np.ndarray:
  """Chooses what each member forgets of what it has seen.

  At random among those that the fewest members before it have chosen, so that
  each group is forgotten by about as many members as any other.

  Args:
    seen: [members, utterances] bool, from `half_design`.
    groups: [utterances], what is forgotten together.
    fraction: share of the groups that a member has seen, in (0, 1]; at least
      one group is chosen.
    seed: of the choice.

  Returns:
    [members, utterances] bool; true only where `seen` is.

  Raises:
    ValueError: if the fraction is out of bounds, or a member has seen part of a
      group.
  """
  if not 0 < fraction <= 1:
    raise ValueError(f'fraction must be in (0, 1], got {fraction}.')
  names, group = np.unique(np.asarray(groups), return_inverse=True)
  rng = np.random.default_rng(seed)
  forgotten = np.zeros_like(seen, dtype=bool)
  # How often each group has been chosen, by members that could have.
  chosen_by = np.zeros(len(names), int)
  for member, row in enumerate(seen):
    whole = np.bincount(group[row], minlength=len(names))
    partly = (whole > 0) & (whole < np.bincount(group))
    if partly.any():
      raise ValueError(
        f'member {member} has seen part of group {names[partly.argmax()]}; a '
        'group must be seen as a whole or not at all.'
      )
    mine = rng.permutation(np.flatnonzero(whole))
    count = min(len(mine), max(1, round(fraction * len(mine))))
    chosen = mine[np.argsort(chosen_by[mine], kind='stable')[:count]]
    chosen_by[chosen] += 1
    forgotten[member] = np.isin(group, chosen)
  return forgotten


def cut(
  forgotten: np.ndarray, groups: np.ndarray, *, parts: int, seed: int
) -> np.ndarray:
  """Cuts what each member forgets into parts, for requests one by one.

  Args:
    forgotten: [members, utterances] bool, from `forget_design`.
    groups: [utterances], what is forgotten together.
    parts: at least 1; as equal in groups as can be.
    seed: of the cut.

  Returns:
    [members, parts, utterances] bool; each utterance that a member forgets is
    in one part.

  Raises:
    ValueError: if `parts` is less than 1, or a member forgets fewer groups.
  """
  if parts < 1:
    raise ValueError(f'parts must be >= 1, got {parts}.')
  names, group = np.unique(np.asarray(groups), return_inverse=True)
  rng = np.random.default_rng(seed)
  found = np.zeros((len(forgotten), parts, len(group)), bool)
  for member, row in enumerate(forgotten):
    mine = rng.permutation(np.unique(group[row]))
    if len(mine) < parts:
      raise ValueError(
        f'member {member} forgets {len(mine)} of {len(names)} groups, which do '
        f'not make {parts} parts.'
      )
    part_of = np.full(len(names), -1)
    part_of[mine] = np.arange(len(mine)) % parts
    found[member] = part_of[group] == np.arange(parts)[:, None]
  return found
