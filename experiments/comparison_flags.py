"""Flags of jobs that compare methods with retraining."""

from absl import flags

from unlearn_jax.methods import registry
from unlearn_jax.methods import wrappers

METHODS = flags.DEFINE_string(
  'methods',
  'all',
  f'Comma list, or all: {", ".join(registry.METHODS)}. retrain is always run. '
  'wrapper:method runs a method inside a wrapper: '
  f'{", ".join(wrappers.WRAPPERS)}. method[field=value;field=value] runs it '
  'with other settings beside, for an ablation.',
)
RETRAIN_REPLICATES = flags.DEFINE_integer(
  'retrain_replicates',
  2,
  'Retrained models a seed; their differences are the noise floor.',
  lower_bound=1,
  upper_bound=64,
)
