"""Flags of all jobs that run methods."""

from absl import flags

PRESET = flags.DEFINE_multi_string(
  'preset',
  [],
  'Changes a setting of a method, as method.field=value; may be given several '
  'times. Fields: learning_rate (per step), epochs, ... and the options of the '
  'method.',
)
