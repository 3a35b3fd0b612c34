r"""Writes a model that a job left as a folder in Hugging Face format.

  python -m experiments.export --run=runs/a/seed_0/scrub --folder=unlearned

`transformers` opens it. Only for models of --model=hf:..., whose folder must
still be there: it has the front end, and says what else the config holds.
"""

import dataclasses
import pathlib

from absl import flags
import jax

from experiments import cli
from experiments import pretrained_flags
from experiments import stored
from unlearn_jax.models.pretrained import folder
from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError

RUN = flags.DEFINE_string(
  'run',
  None,
  'Folder of a run, or of its model, that a job of training or unlearning '
  'wrote.',
)
FOLDER = flags.DEFINE_string('folder', None, 'Folder to write.')
OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace --folder where it exists.'
)


def main() -> None:
  """Runs the job."""
  if RUN.value is None or FOLDER.value is None:
    raise InputError('--run and --folder: must both be given.')
  model = stored.find('run', RUN.value)
  name = str(model.description.get('settings', {}).get('model', ''))
  if not pretrained_flags.is_named(name):
    raise InputError(
      f'{model.flag}: its network is {name!r}; must be one of --model=hf:...'
    )
  out = pathlib.Path(FOLDER.value).expanduser()
  folder.check_absent(out, overwrite=OVERWRITE.value)
  classes = tuple(model.description['classes'])
  source = folder.read(
    name.removeprefix(pretrained_flags.PREFIX), class_names=classes
  )
  network = dataclasses.replace(source.network, class_names=classes)
  like = jax.eval_shape(network.init, jax.random.key(0))
  params = checkpoint.load_params(model.folder, like)
  folder.write(
    out,
    dataclasses.replace(source, network=network),
    params,
    overwrite=OVERWRITE.value,
  )
  print(f'Model: {out}')


if __name__ == '__main__':
  cli.run(main)
