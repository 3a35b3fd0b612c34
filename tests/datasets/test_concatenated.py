"""Files in parts against one file in memory."""

import io

import numpy as np
import pytest

from unlearn_jax.datasets.concatenated import ConcatenatedFiles


def test_concatenated_files_read_like_one(tmp_path):
  data = np.random.default_rng(0).bytes(1_000)
  ends = [0, 10, 10, 500, 1_000]  # One part is empty.
  paths = []
  for start, end in zip(ends[:-1], ends[1:], strict=True):
    paths.append(tmp_path / f'{start}-{end}')
    paths[-1].write_bytes(data[start:end])
  twin = io.BytesIO(data)
  rng = np.random.default_rng(1)
  with io.BufferedReader(ConcatenatedFiles(paths), 64) as file:
    for _ in range(300):
      whence = int(rng.integers(3))
      offset = int(rng.integers(0, 1_001))
      if whence:
        offset = -int(
          rng.integers(0, 1 + (twin.tell() if whence == 1 else 1_000))
        )
      assert file.seek(offset, whence) == twin.seek(offset, whence)
      size = int(rng.integers(-1, 700))
      assert file.read(size) == twin.read(size)
      assert file.tell() == twin.tell()
    with pytest.raises(OSError, match='before the beginning'):
      file.raw.seek(-1)
  with pytest.raises(FileNotFoundError):
    ConcatenatedFiles([paths[0], tmp_path / 'absent'])
