"""Pieces of work that leave a file, done once by whichever process comes first.

Several processes, on one machine or on several that share the folder, may be
given the same pieces. Each takes one that no other holds; a process that dies
lets go of its piece at once, since what holds it is a lock of the file system.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import pathlib
import time

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
  before: Callable[[Piece, int], None] | None = None,
) -> None:
  """Does all pieces, or waits for others to do them.

  Args:
    pieces: in the order in which to try them; what each needs is among them or
      done.
    before: called with each that this process begins, and how many are left.

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
      if all(path.exists() for path in piece.needs):
        _try(piece, before, len(left))
      if piece.is_done():
        left.remove(piece)
    if len(left) == began:
      time.sleep(_PAUSE_S)


def _try(piece, before, count):
  with claim(piece.made) as mine:
    if mine and not piece.is_done():
      if before is not None:
        before(piece, count)
      piece.make()
      if not piece.is_done():
        raise RuntimeError(f'{piece.name} left no {piece.made}.')
