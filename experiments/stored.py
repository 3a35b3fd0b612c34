"""Models that a job left on disk, and whether they fit the task at hand."""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple, TYPE_CHECKING

from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError, Params

if TYPE_CHECKING:  # It reads flags that not every job has.
  from experiments.task import Task


class Stored(NamedTuple):
  """A model on disk.

  Attributes:
    flag: as the user named it, for messages.
    folder: of the model.
    description: what is known of it.
  """

  flag: str
  folder: pathlib.Path
  description: Mapping[str, Any]

  def load(self, task: 'Task', like: Params) -> Params:
    """Reads the parameters.

    Args:
      task: corpus and network, which must be those of the model.
      like: parameters of the shape of the network's.

    Raises:
      InputError: if the corpus or the network does not fit.
    """
    params = checkpoint.load_params(self.folder, like)
    found = self.description.get('fingerprint')
    if found != task.corpus.fingerprint:
      raise InputError(
        f'{self.flag}: was trained on another version of {task.corpus.name} '
        f'(fingerprint {found}); --data_dir must hold the same recordings, and '
        f'holds {task.corpus.fingerprint}.'
      )
    return params


def find(name: str, path: str) -> Stored:
  """Finds the model in a folder, or in `model` in it.

  Args:
    name: of the flag.
    path: its value.

  Raises:
    InputError: if there is no model.
  """
  flag = f'--{name}={path}'
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise InputError(
      f'{flag}: does not exist; must be the folder of a model that a job of '
      'training or unlearning wrote.'
    )
  if (folder / 'model').is_dir():
    folder = folder / 'model'
  try:
    return Stored(flag, folder, checkpoint.describe(folder))
  except InputError as error:
    raise InputError(f'{flag}: {error}') from error
