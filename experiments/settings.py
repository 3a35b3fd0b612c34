"""Flags of training and unlearning, and the settings that they make.

The settings are what decides a result. Flags that only say where files lie or
how much is done (`--workdir`, `--methods`, `--seeds`) are not among them.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import flags

from experiments import cli
from experiments import pretrained_flags
from experiments.training import TaskDefaults
from experiments.training import TASKS
from experiments.training import Training
from unlearn_jax.datasets import registry as datasets
from unlearn_jax.datasets import splits
from unlearn_jax.models import heads
from unlearn_jax.models import registry as models
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.types import InputError

_RECIPE = Recipe()
flags.adopt_module_key_flags(pretrained_flags)


DATASET = flags.DEFINE_string(
  'dataset',
  None,
  f'Corpus: {", ".join(datasets.names())}. Not given: an embedded one.',
)
TASK = flags.DEFINE_enum(
  'task',
  None,
  list(TASKS),
  'kws: which keyword; sid: which speaker. Each job knows its own.',
)
MODEL = flags.DEFINE_string(
  'model',
  None,
  f'Network: {", ".join(models.NETWORKS)}; or hf:FOLDER or hf:NAME, in Hugging '
  'Face format. Not given: '
  + ', '.join(f'{t.model} for {name}' for name, t in TASKS.items())
  + '.',
)
HEAD = flags.DEFINE_enum(
  'head',
  None,
  list(heads.HEADS),
  'Last layer: linear, or cosines trained with an additive angular margin. Not '
  'given: softmax for kws, aam for sid.',
)
MARGIN = flags.DEFINE_float(
  'margin',
  0.2,
  'Angular margin of --head=aam, radians.',
  lower_bound=0.0,
  upper_bound=1.5,
)
SPLIT = flags.DEFINE_enum(
  'split',
  'utterance',
  list(splits.KINDS),
  'Test on: the official test set, other speakers, other utterances of the '
  'same speakers, or their last sessions (takes where a corpus has takes).',
)
EPOCHS = flags.DEFINE_integer(
  'epochs',
  _RECIPE.epochs,
  'Passes over the training set, of the original and of retrained models.',
  lower_bound=1,
  upper_bound=10_000,
)
BATCH_SIZE = flags.DEFINE_integer(
  'batch_size',
  _RECIPE.batch_size,
  'Examples a training step.',
  lower_bound=1,
  upper_bound=65_536,
)
LEARNING_RATE = flags.DEFINE_float(
  'learning_rate',
  None,
  'Peak learning rate of training, per step. Not given: '
  + ', '.join(f'{t.learning_rate:g} for {n}' for n, t in TASKS.items())
  + '.',
  lower_bound=0.0,
  upper_bound=10.0,
)
WEIGHT_DECAY = flags.DEFINE_float(
  'weight_decay',
  _RECIPE.weight_decay,
  'Weight decay of AdamW, times the learning rate a step.',
  lower_bound=0.0,
  upper_bound=10.0,
)
MAX_SHIFT_MS = flags.DEFINE_float(
  'max_shift_ms',
  _RECIPE.max_shift_ms,
  'Augmentation: largest time shift either way, milliseconds.',
  lower_bound=0.0,
  upper_bound=500.0,
)
TIME_MASK_MS = flags.DEFINE_float(
  'time_mask_ms',
  _RECIPE.time_mask_ms,
  'Augmentation: largest width of the time mask, milliseconds.',
  lower_bound=0.0,
  upper_bound=900.0,
)
FREQUENCY_MASK_BINS = flags.DEFINE_integer(
  'frequency_mask_bins',
  _RECIPE.frequency_mask_bins,
  'Augmentation: largest width of the frequency mask, mel bins of 40.',
  lower_bound=0,
  upper_bound=40,
)
DP_MAX_NORM = flags.DEFINE_float(
  'dp_max_norm',
  _RECIPE.dp_max_norm,
  'DP-SGD: bound on the norm of the gradient of one example; not given: '
  'ordinary training.',
  lower_bound=0.0,
)
DP_NOISE_MULTIPLIER = flags.DEFINE_float(
  'dp_noise_multiplier',
  _RECIPE.dp_noise_multiplier,
  'DP-SGD: standard deviation of the noise on the sum of a batch, in units of '
  '--dp_max_norm.',
  lower_bound=0.0,
  upper_bound=1_000.0,
)
SEEDS = flags.DEFINE_integer(
  'seeds',
  1,
  'Repetitions, each with its own split, models and forget set: seeds 0, 1, '
  '... up to this number.',
  lower_bound=1,
  upper_bound=1_000,
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for everything that the job writes.', required=True
)
CACHE_DIR = flags.DEFINE_string(
  'cache_dir',
  cli.default_cache_dir(),
  'Folder for prepared corpora, features and compiled programs.',
)
MESH = flags.DEFINE_string(
  'mesh',
  '1x1',
  'Several devices: in how many parts batches are cut, and kernels; 4x2 needs '
  'eight devices. Results are the same within rounding.',
)
CHECKPOINT_EVERY_S = flags.DEFINE_float(
  'checkpoint_every_s',
  10.0,
  'Least time between two checkpoints of a run, seconds; what a killed job '
  'loses.',
  lower_bound=0.0,
)
PROGRESS = flags.DEFINE_bool('progress', True, 'Show progress bars.')


def training_settings(
  task: str | None, described: Mapping[str, Any] | None = None
) -> Training:
  """Reads the flags.

  Args:
    task: 'kws' or 'sid', of the job; None is that of the model, or kws.
    described: the description of a model that exists already. Its settings
      hold wherever a flag was not given.

  Raises:
    InputError: if a flag was given and the model was made by another value, or
      the description is not of one that we trained.
  """
  task = _task(task, described)
  defaults = TASKS[task]
  if pretrained_flags.is_named(MODEL.value or ''):
    defaults = defaults._replace(**pretrained_flags.DEFAULTS)
  recorded = None if described is None else described.get('settings')
  if described is not None and not isinstance(recorded, dict):
    raise InputError(
      '--checkpoint: its description has no settings; must be a model that '
      'kws_train or sid_train wrote.'
    )
  values: dict[str, Any] = {}
  for field in dataclasses.fields(Training):
    flag = flags.FLAGS[field.name]
    values[field.name] = flag.value
    if flag.value is None and field.name in TaskDefaults._fields:
      values[field.name] = getattr(defaults, field.name)
    if recorded is None:
      continue
    # A field with a default may be newer than the model.
    made_with = recorded.get(field.name, field.default)
    if made_with is dataclasses.MISSING:
      raise InputError(
        f'--checkpoint: its settings lack {field.name}; must be a model that '
        'kws_train or sid_train wrote.'
      )
    values[field.name] = made_with
    if flag.present and flag.value != made_with:
      raise InputError(
        f'--{field.name}={flag.value}: the model of --checkpoint was made '
        f'with {made_with}; must be the same, or not given.'
      )
  values['task'] = task
  return Training(**values)


def _task(own: str | None, described: Mapping[str, Any] | None) -> str:
  """Returns the task of a job, which its flag and its model must share."""
  model = str((described or {}).get('settings', {}).get('task', ''))
  task = own or model or TASK.value or 'kws'
  if TASK.value not in (None, task):
    raise InputError(f'--task={TASK.value}: this job is for {task}.')
  if model and model != task:
    raise InputError(
      f'--checkpoint: is a model for {model}; must be one for {task}.'
    )
  return task
