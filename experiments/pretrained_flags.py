"""Flags of models in Hugging Face format."""

from typing import Any

from absl import flags

PREFIX = 'hf:'  # Of a value of --model.
# Of flags that were not given, whatever the task.
DEFAULTS: dict[str, Any] = {'head': 'softmax', 'learning_rate': 1e-4}

ENCODER = flags.DEFINE_string(
  'encoder',
  None,
  'For --model=hf:... that has a classifier: folder or name of the encoder '
  'that it was trained from, where retraining begins.',
)
COMPUTE_DTYPE = flags.DEFINE_enum(
  'compute_dtype',
  'float32',
  ['float32', 'bfloat16'],
  'For --model=hf:...: type of the computation in the encoder; parameters are '
  'float32.',
)
REMAT = flags.DEFINE_bool(
  'remat',
  False,
  'For --model=hf:...: compute activations again in the backward pass, which '
  'takes a third more time and far less memory.',
)

MICROBATCH = flags.DEFINE_integer(
  'microbatch',
  None,
  'Work through each batch in pieces of so many examples: the same steps '
  'within rounding, activations of one piece. Not given: all at once.',
  lower_bound=1,
)
MOMENTS = flags.DEFINE_enum(
  'moments',
  'float32',
  ['float32', 'bfloat16'],
  'Type in which optimizers keep their moments; bfloat16 is rounded at random.',
)


def is_named(model: str) -> bool:
  """Says whether a value of --model names a folder or a hub's model."""
  return model.startswith(PREFIX)
