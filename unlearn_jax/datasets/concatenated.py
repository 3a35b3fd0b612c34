"""A file in several parts, read as one without a copy on disk."""

from collections.abc import Sequence
import io
import itertools
import os
import pathlib


class ConcatenatedFiles(io.RawIOBase):
  """Reads files as if each went on where the one before it ends.

  A read ends with the part that it began in; `io.BufferedReader` goes on.
  """

  def __init__(self, paths: Sequence[pathlib.Path]):
    """Opens the files.

    Raises:
      OSError: if one cannot be opened.
    """
    super().__init__()
    self._position = 0
    self._files: list[io.FileIO] = []
    try:
      for path in paths:
        self._files.append(io.FileIO(path))
    except OSError:
      self.close()
      raise
    sizes = (os.fstat(file.fileno()).st_size for file in self._files)
    self._ends = list(itertools.accumulate(sizes))

  def readable(self) -> bool:
    """Returns True."""
    return True

  def seekable(self) -> bool:
    """Returns True."""
    return True

  def tell(self) -> int:
    """Returns the place in the whole, in bytes."""
    return self._position

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    """Moves to a place in the whole and returns it.

    Raises:
      OSError: if it lies before the beginning.
    """
    base = {
      os.SEEK_SET: 0,
      os.SEEK_CUR: self._position,
      os.SEEK_END: self._ends[-1],
    }
    position = base[whence] + offset
    if position < 0:
      raise OSError(f'cannot seek to {position}, before the beginning')
    self._position = position
    return position

  def readinto(self, buffer) -> int:
    """Reads up to the size of the buffer from the part of the position."""
    start = 0
    for file, end in zip(self._files, self._ends, strict=True):
      if self._position < end:
        file.seek(self._position - start)
        wanted = min(len(buffer), end - self._position)
        count = file.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count
      start = end
    return 0

  def close(self) -> None:
    """Closes all parts."""
    for file in self._files:
      file.close()
    super().close()
