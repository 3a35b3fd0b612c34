"""What U-LiRA found out about a population, as files beside its records.

A page of studies has no access to the corpus, so what it shows of a population
lies there: `attacks.npz` holds the scores of the attack on each method,
`exposed.json` the sound of the recordings that it tells apart most surely, and
least. A folder that lacks them is read as one that holds nothing.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import io
import json
import os
import pathlib
from typing import Any
import wave
import zipfile
import zlib

import numpy as np

from unlearn_jax.evaluation.ulira import UliraResult
from unlearn_jax.reporting.page import WAV_ADDRESS
from unlearn_jax.reporting.records import write_text
from unlearn_jax.types import InputError

ATTACKS, EXPOSED = 'attacks.npz', 'exposed.json'
_DAMAGE = (
  OSError,
  EOFError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  wave.Error,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclasses.dataclass(frozen=True)
class ExposedRecording:
  """A recording, and how surely an attacker tells who was trained on it.

  Attributes:
    utterance_id: of the recording.
    keyword: what is said.
    speaker: who says it.
    accuracy: by method, balanced accuracy of U-LiRA on it, in [0, 1]; a method
      of which too few models were attacked is left out.
    sound: `data:` address of a WAV file.
  """

  utterance_id: str
  keyword: str
  speaker: str
  accuracy: Mapping[str, float]
  sound: str

  def label(self, methods: Sequence[str]) -> str:
    """Says for one who listens which it is, and how exposed under `methods`."""
    values = ', '.join(
      f'{self.accuracy[method]:.0%} for {method}'
      for method in methods
      if method in self.accuracy
    )
    return (
      f'{self.keyword} by {self.speaker}, {self.utterance_id}; '
      f'the attacker is right in {values}'
    )


@dataclasses.dataclass(frozen=True)
class ExposedGroup:
  """Recordings that were chosen alike.

  Attributes:
    method: whose attack they were chosen by.
    heading: says which they are.
    recordings: in the order of that attack's accuracy, highest first.
  """

  method: str
  heading: str
  recordings: tuple[ExposedRecording, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class AttackFiles:
  """What the files of a population hold.

  Attributes:
    scores: of each method, those of models that unlearned and of models that
      never saw, float32 [pairs] each; higher says "unlearned".
    groups: of all methods; empty for corpora without sound.
  """

  scores: Mapping[str, tuple[np.ndarray, np.ndarray]]
  groups: tuple[ExposedGroup, ...] = ()


def write_attacks(
  folder: pathlib.Path, found: Mapping[str, UliraResult]
) -> None:
  """Writes `attacks.npz`, in place of what was there.

  Of each method: `METHOD.scores`, float16 [pairs], `METHOD.unlearned`, bool
  [pairs], and `METHOD.example_accuracy`, float32 [examples]. Scores lie in
  [-50, 50], where float16 keeps three digits and so the order of nearly all.

  Args:
    folder: of the population.
    found: results by method.
  """
  arrays: dict[str, Any] = {}
  for method, of in found.items():
    arrays[f'{method}.scores'] = of.scores.astype(np.float16)
    arrays[f'{method}.unlearned'] = of.unlearned
    arrays[f'{method}.example_accuracy'] = of.example_accuracy.astype(
      np.float32
    )
  path = folder / ATTACKS
  part = path.with_name(f'{path.stem}.part.npz')
  np.savez_compressed(part, **arrays)
  os.replace(part, path)


def write_exposed(folder: pathlib.Path, groups: Sequence[ExposedGroup]) -> None:
  """Writes `exposed.json`, in place of what was there."""
  rows = [dataclasses.asdict(group) for group in groups]
  write_text(folder / EXPOSED, json.dumps(rows, indent=1, allow_nan=False))


def read(folder: pathlib.Path) -> AttackFiles:
  """Reads what the two writers wrote; a file that is not there is empty.

  Raises:
    InputError: if a file is damaged.
  """
  scores: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
  groups: tuple[ExposedGroup, ...] = ()
  if (path := folder / ATTACKS).exists():
    with _damage_is_said(path):
      scores = _read_scores(path)
  if (path := folder / EXPOSED).exists():
    with _damage_is_said(path):
      groups = tuple(map(_group, json.loads(path.read_text('utf-8'))))
  return AttackFiles(scores, groups)


@contextlib.contextmanager
def _damage_is_said(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except _DAMAGE as error:
    reason = ' '.join(str(error).split())
    raise InputError(
      f'{path}: is damaged ({type(error).__name__}: {reason}); must be as '
      'kws_shadow or sid_shadow wrote it, which write it again if run again.'
    ) from error


def _read_scores(path):
  end, found = '.scores', {}
  # Opened here, since NumPy leaves a damaged one open.
  with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
    for name in arrays.files:
      if not name.endswith(end):
        continue
      method = name.removesuffix(end)
      scores = arrays[name].astype(np.float32)
      unlearned = arrays[f'{method}.unlearned']
      if unlearned.dtype != bool or scores.ndim != 1:
        raise ValueError(f'{method} must have scores [pairs] and a truth each')
      if scores.shape != unlearned.shape or not np.isfinite(scores).all():
        raise ValueError(f'{method} must have as many finite scores as truths')
      found[method] = scores[unlearned], scores[~unlearned]
  return found


def _group(row: Mapping[str, Any]) -> ExposedGroup:
  recordings = tuple(map(_recording, row['recordings']))
  return ExposedGroup(str(row['method']), str(row['heading']), recordings)


def _recording(row: Mapping[str, Any]) -> ExposedRecording:
  name = str(row['utterance_id'])
  accuracy = {str(k): float(v) for k, v in row['accuracy'].items()}
  if not all(0 <= value <= 1 for value in accuracy.values()):  # Nor is nan.
    raise ValueError(f'{name} must have accuracies in [0, 1]')
  return ExposedRecording(
    utterance_id=name,
    keyword=str(row['keyword']),
    speaker=str(row['speaker']),
    accuracy=accuracy,
    sound=_sound(name, row['sound']),
  )


def _sound(name: str, address: str) -> str:
  """Returns the address, which must hold a sound and lead nowhere else."""
  if not address.startswith(WAV_ADDRESS):
    raise ValueError(f'{name} must have a sound that begins {WAV_ADDRESS}')
  try:
    data = base64.b64decode(address.removeprefix(WAV_ADDRESS), validate=True)
  except binascii.Error as error:
    raise ValueError(f'{name} has a sound that is not base64') from error
  with wave.open(io.BytesIO(data)) as file:
    if len(file.readframes(file.getnframes())) < 2 * file.getnframes():
      raise ValueError(f'{name} has a sound that is cut short')
  return address
