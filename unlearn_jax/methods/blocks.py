"""Parts of a network: rules that change the last blocks alone.

A block is named by the prefix of its parameters' paths, such as 'Dense_0' or
'encoder/layer_3'; a network lists its blocks from input to output.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
import optax

from unlearn_jax.types import LossFn, Params

SelectFn = Callable[[str], bool]  # Of a path such as 'Dense_0/kernel'.


def path_of(path: Sequence) -> str:
  """Returns a leaf's path as text, such as 'Dense_0/kernel'."""
  return keystr(tuple(path), simple=True, separator='/')


def in_block(path: str, block: str) -> bool:
  """Says whether a path lies in a block.

  >>> in_block('Dense_1/kernel', 'Dense_1')
  True
  >>> in_block('Dense_10/kernel', 'Dense_1')
  False
  """
  return path == block or path.startswith(f'{block}/')


def last_blocks(blocks: Sequence[str], k: int) -> SelectFn:
  """Selects the parameters of the last k blocks.

  Args:
    blocks: path prefixes from input to output.
    k: from 1 to the number of blocks.

  Raises:
    ValueError: if k is out of bounds, or there are no blocks.
  """
  if not blocks:
    raise ValueError('blocks must name at least one block, got none.')
  if not 1 <= k <= len(blocks):
    raise ValueError(f'k must be in [1, {len(blocks)}], got {k}.')
  chosen = tuple(blocks)[-k:]
  return lambda path: any(in_block(path, block) for block in chosen)


def selected(params: Params, select: SelectFn) -> Params:
  """Returns Python booleans shaped like `params`.

  Raises:
    ValueError: if nothing is selected.
  """
  mask = jax.tree.map_with_path(lambda path, _: select(path_of(path)), params)
  if not any(jax.tree.leaves(mask)):
    raise ValueError('the blocks must name parameters, and name none of them.')
  return mask


def choose(mask: Params, new: Params, old: Params) -> Params:
  """Takes the leaves of `new` where `mask` is true, of `old` elsewhere."""
  return jax.tree.map(lambda m, a, b: a if m else b, mask, new, old)


def stop_elsewhere(loss_fn: LossFn, select: SelectFn) -> LossFn:
  """Returns a loss with no gradient outside of what is selected.

  The backward pass is then only as long as the selected blocks are deep.
  """

  def restricted(params, batch):
    frozen = jax.tree.map(jax.lax.stop_gradient, params)
    return loss_fn(choose(selected(params, select), params, frozen), batch)

  return restricted


def train_only(
  tx: optax.GradientTransformation, select: SelectFn
) -> optax.GradientTransformation:
  """Restricts an optimizer, weight decay included, to what is selected.

  The rest stays bit for bit, and `tx` does not see it: a norm that it clips by
  is that of the selected parameters alone.
  """

  def label(params):
    mask = selected(params, select)
    return jax.tree.map(lambda m: 'train' if m else 'freeze', mask)

  return optax.partition({'train': tx, 'freeze': optax.stateless(_stay)}, label)


def _stay(updates, params):
  del params
  # Adding 0 would turn -0 into 0; adding -0 changes nothing.
  return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates)
