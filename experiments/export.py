r"""Writes a folder in Hugging Face format, which `transformers` opens.

  python -m experiments.export --run=runs/a/seed_0/scrub --folder=unlearned
  python -m experiments.export --size=small-hubert --folder=small

The first is a model that a job left, of --model=hf:..., whose folder must still
be there: it has the front end, and says what else the config holds. The second
is an encoder with fresh weights, to train from nothing, or to try a job before
a real model is at hand.
"""

import dataclasses
import pathlib

from absl import flags
import jax

from experiments import cli
from experiments import pretrained_flags
from experiments import stored
from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.folder import Pretrained
from unlearn_jax.models.pretrained.sizes import SIZES
from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError, Params

RUN = flags.DEFINE_string(
  'run',
  None,
  'Folder of a run, or of its model, that a job of training or unlearning '
  'wrote.',
)
SIZE = flags.DEFINE_enum(
  'size',
  None,
  list(SIZES),
  'In the place of --run: fresh weights, of the sizes of a published or of a '
  'small model.',
)
FOLDER = flags.DEFINE_string('folder', None, 'Folder to write.')
OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace --folder where it exists.'
)


def main() -> None:
  """Runs the job."""
  if FOLDER.value is None or (RUN.value is None) == (SIZE.value is None):
    raise InputError('--folder: must be given, and either --run or --size.')
  out = pathlib.Path(FOLDER.value).expanduser()
  folder.check_absent(out, overwrite=OVERWRITE.value)
  made, params = _fresh(SIZE.value) if SIZE.value else _of_run(str(RUN.value))
  folder.write(out, made, params, overwrite=OVERWRITE.value)
  print(f'Model: {out}')


def _fresh(size: str) -> tuple[Pretrained, Params]:
  """Returns an encoder with fresh weights."""
  network = Network.read(size, SIZES[size])
  params = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
  head = {tensor.path[0] for tensor in network.head_tensors()}
  params = {name: leaf for name, leaf in params.items() if name not in head}
  return Pretrained(size, network, params, False, SIZES[size], {}), params


def _of_run(run: str) -> tuple[Pretrained, Params]:
  """Returns the model of a run, and the folder that it came from."""
  model = stored.find('run', run)
  name = str(model.description.get('settings', {}).get('model', ''))
  if not pretrained_flags.is_named(name):
    raise InputError(
      f'{model.flag}: its network is {name!r}; must be one of --model=hf:...'
    )
  classes = tuple(model.description['classes'])
  source = folder.read(
    name.removeprefix(pretrained_flags.PREFIX), class_names=classes
  )
  network = dataclasses.replace(source.network, class_names=classes)
  like = jax.eval_shape(network.init, jax.random.key(0))
  params = checkpoint.load_params(model.folder, like)
  return dataclasses.replace(source, network=network), params


if __name__ == '__main__':
  cli.run(main)
