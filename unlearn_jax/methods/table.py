"""The table of methods in the README, made from the registry.

python -m unlearn_jax.methods.table
"""

from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.registry import METHODS
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.wrappers import WRAPPERS


def data(spec: MethodSpec) -> str:
  """Returns what a method looks at: forget, retain or both."""
  return 'both' if len(spec.needs) == 2 else next(iter(spec.needs))


def cost(spec: MethodSpec) -> str:
  """Returns the passes of a run by the presets."""
  if spec.preset is None:
    return 'all epochs'
  counts = [spec.preset.epochs]
  for other in (spec.class_preset, spec.group_preset):
    if isinstance(other, Preset):
      counts.append(other.epochs)
  if not any(counts):
    return 'one edit'
  low, high = min(counts), max(counts)
  epochs = f'{low} to {high}' if low < high else str(low)
  which = 'forget' if data(spec) == 'forget' else 'retain'
  return f'{epochs} epochs, {which}'


def methods_table() -> str:
  """Returns Markdown: one row a method."""
  lines = [
    '| name | data | cost | what it does | when |',
    '|---|---|---|---|---|',
  ]
  for name, spec in METHODS.items():
    classes = ' (classes)' if spec.for_classes else ''
    lines.append(
      f'| `{name}` | {data(spec)}{classes} | {cost(spec)} | {spec.summary} '
      f'| {spec.when} |'
    )
  return '\n'.join(lines)


def wrappers_table() -> str:
  """Returns Markdown: one row a wrapper."""
  lines = ['| wrapper | what it does to a method |', '|---|---|']
  for name, wrapper in WRAPPERS.items():
    lines.append(f'| `{name}:` | {wrapper.summary} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(f'{methods_table()}\n\n{wrappers_table()}')
