"""Models in Hugging Face format in the place of a network: --model=hf:NAME."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from experiments.pretrained_flags import PREFIX
from experiments.training import Training
from unlearn_jax.models.pretrained import build as build_lib
from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained.folder import Pretrained
from unlearn_jax.models.pretrained.front_end import FrontEnd
from unlearn_jax.models.registry import Classifier
from unlearn_jax.types import InputError, Params


class Opened(NamedTuple):
  """A model that `--model` names.

  Attributes:
    model: as read.
    classifier: as pure functions.
    front_end: what it wants to hear.
    shortest: samples that it needs.
  """

  model: Pretrained
  classifier: Classifier
  front_end: FrontEnd
  shortest: int

  @property
  def original(self) -> Params | None:
    """Returns the model where it is trained already; None where it is not."""
    return self.model.params if self.model.has_head else None


def open_model(training: Training, class_names: Sequence[str]) -> Opened:
  """Reads the model of a job.

  A folder with an encoder alone gets a head, and whatever is trained begins
  there. One with a classifier is an original model; retraining then begins
  with the encoder that `--encoder` names.

  Args:
    training: settings.
    class_names: of the task.

  Raises:
    InputError: if a folder cannot be read, or does not fit the task.
  """
  name = training.model.removeprefix(PREFIX)
  if training.head != 'softmax':
    raise InputError(
      f'--head={training.head}: must be softmax for --model={training.model}.'
    )
  model = folder.read(name, class_names=class_names)
  start = model
  if model.has_head and training.encoder is None:
    raise InputError(
      f'--model={training.model}: has a classifier already; --encoder must '
      'name the encoder that it was trained from, where retraining begins.'
    )
  if training.encoder is not None:
    if not model.has_head:
      raise InputError(
        f'--encoder={training.encoder}: must not be given, since {name} has no '
        'classifier and is where training begins.'
      )
    start = folder.read(
      training.encoder.removeprefix(PREFIX), class_names=class_names
    )
    sizes = (
      dataclasses.replace(m.network, class_names=()) for m in (start, model)
    )
    if len(set(sizes)) > 1:
      raise InputError(
        f'--encoder={training.encoder}: must be of the sizes of {name}.'
      )
  classifier = build_lib.build(
    model,
    start=start,
    dtype=jnp.dtype(training.compute_dtype),
    remat=training.remat,
  )
  front_end = build_lib.front_end_of(model)
  return Opened(model, classifier, front_end, model.network.encoder.window)
