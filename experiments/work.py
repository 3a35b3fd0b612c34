"""Pieces of work that leave a file, done once by whichever process comes first.

Several processes, on one machine or on several that share the folder, may be
given the same pieces. Each takes one that no other holds; a process that dies
lets go of its piece at once, since what holds it is a lock of the file system.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import pathlib
import time
from typing import Any

_PAUSE_S = 1.0  # Between two looks at what others hold.


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece of work.

  Attributes:
    name: for messages.
    made: the file that is there when it is done, and never before.
    make: does it.
    needs: files of other pieces, which must be done first.
    failed: a file that `make` may leave in its place; then it is done too.
  """

  name: str
  made: pathlib.Path
  make: Callable[[], None]
  needs: tuple[pathlib.Path, ...] = ()
  failed: pathlib.Path | None = None

  def is_done(self) -> bool:
    """Says whether it is done."""
    return any(path.exists() for path in (self.made, self.failed) if path)


@dataclasses.dataclass(frozen=True)
class Together:
  """Says which pieces one call may do at once.

  Attributes:
    most: pieces a call, at least 1.
    kind: of a piece; those of one kind may be done together. None is alone.
    make: does two or more of one kind.
  """

  most: int
  kind: Callable[[Any], Hashable | None]
  make: Callable[[Sequence[Any]], None]


ALONE = Together(1, lambda piece: None, lambda pieces: None)


@contextlib.contextmanager
def claim(path: pathlib.Path) -> Iterator[bool]:
  """Holds a path against other processes; gives False if one holds it.

  Args:
    path: a file `<path>.lock` is made beside it, which stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.with_name(f'{path.name}.lock'), 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True


def do(
  pieces: Sequence[Piece],
  before: Callable[[Sequence[Any], int], None] | None = None,
  together: Together = ALONE,
) -> None:
  """Does all pieces, or waits for others to do them.

  Args:
    pieces: in the order in which to try them; what each needs is among them or
      done.
    before: called with those that this process begins, and how many are left.
    together: which to do by one call.

  Raises:
    ValueError: if a piece needs what none makes.
  """
  left = [piece for piece in pieces if not piece.is_done()]
  makes = {piece.made for piece in left}
  for piece in left:
    for path in piece.needs:
      if path not in makes and not path.exists():
        raise ValueError(f'{piece.name} needs {path}, which nothing makes.')
  while left:
    began = len(left)
    for piece in list(left):
      if piece not in left:  # It was done along with another.
        continue
      if _is_ready(piece):
        mates = _mates(piece, left, together)
        for done in _try([piece, *mates], before, len(left), together):
          left.remove(done)
      elif piece.is_done():
        left.remove(piece)
    if len(left) == began:
      time.sleep(_PAUSE_S)


def _is_ready(piece):
  return all(path.exists() for path in piece.needs)


def _mates(piece, left, together):
  """Returns what may be done along with a piece."""
  kind = together.kind(piece)
  if kind is None or together.most < 2:
    return []
  others = (other for other in left if other is not piece)
  found = [p for p in others if together.kind(p) == kind and _is_ready(p)]
  return found[: together.most - 1]


def _try(pieces, before, count, together):
  """Does the first piece and all others that nobody holds, if it holds it.

  Returns:
    those that are done, by whomever.
  """
  with contextlib.ExitStack() as stack:
    mine: list[Piece] = []
    for piece in pieces:
      is_mine = stack.enter_context(claim(piece.made))
      if piece.is_done() or not is_mine:
        if not mine:
          return [piece] if piece.is_done() else []
        continue
      mine.append(piece)
    if before is not None:
      before(mine, count)
    if len(mine) > 1:
      together.make(mine)
    else:
      mine[0].make()
    for piece in mine:
      if not piece.is_done():
        raise RuntimeError(f'{piece.name} left no {piece.made}.')
    return mine
