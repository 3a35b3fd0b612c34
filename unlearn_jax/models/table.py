"""The table of networks in the README, made from the registry.

python -m unlearn_jax.models.table
"""

import jax

from unlearn_jax.models import registry

_CLASSES, _INPUT_SHAPE = 20, (98, 40)  # One second.


def networks_table() -> str:
  """Returns Markdown: one row a network."""
  lines = ['| name | what | parameters |', '|---|---|---:|']
  for name, network in registry.NETWORKS.items():
    init_fn = registry.build(name, _CLASSES, _INPUT_SHAPE).init_fn
    params = jax.eval_shape(init_fn, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    lines.append(f'| `{name}` | {network.summary} | {size:,} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(networks_table())
