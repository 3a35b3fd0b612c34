"""Non-members that look like the members of an attack."""

from collections.abc import Sequence

import numpy as np


def match(
  members: Sequence[np.ndarray],
  others: Sequence[np.ndarray],
  *,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs each member with another example of the same kind.

  Unmatched, a membership attack measures the mix of classes: in a collapsed
  model the loss is a function of the class alone. So each member is paired with
  one of the others, used once, that agrees in all properties; where there is
  none left, in all but the last; and so on down to the first alone. Members
  without a partner are left out.

  Args:
    members: properties [m] of the members, the class first, then for instance
      the speaker.
    others: the same properties [n] of the others.
    seed: of the choice among equals.

  Returns:
    indices of members and of their partners, both [pairs].

  Raises:
    ValueError: if the properties differ in number or length, or there is none.
  """
  if not members or len(members) != len(others):
    raise ValueError(
      'members and others must have the same properties, at least one, got '
      f'{len(members)} and {len(others)}.'
    )
  for properties in (members, others):
    if len(lengths := {len(p) for p in properties}) > 1:
      raise ValueError(
        f'properties must have one length, got {sorted(lengths)}.'
      )
  rng = np.random.default_rng(seed)
  free_members = rng.permutation(len(members[0]))
  free_others = rng.permutation(len(others[0]))
  pairs: list[tuple[int, int]] = []
  for depth in range(len(members), 0, -1):
    kinds: dict[tuple, list[int]] = {}
    for i in free_others:
      kinds.setdefault(tuple(p[i] for p in others[:depth]), []).append(int(i))
    left = []
    for i in free_members:
      partners = kinds.get(tuple(p[i] for p in members[:depth]))
      if partners:
        pairs.append((int(i), partners.pop()))
      else:
        left.append(i)
    used = {partner for _, partner in pairs}
    free_members = np.array(left, int)
    free_others = np.array([i for i in free_others if i not in used], int)
  found = np.array(sorted(pairs), int).reshape(-1, 2)
  return found[:, 0], found[:, 1]
