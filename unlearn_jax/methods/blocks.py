"""Parts of a network: rules that change the last blocks alone.

A block is named by the prefix of its parameters' paths, such as 'Dense_0' or
'encoder/layer_3'; a network lists its blocks from input to output. Where equal
layers lie stacked in one array, 'layers[3]' is the fourth of them: row 3 of
every leaf under 'layers'.
"""

from collections.abc import Callable, Sequence
import re

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
import numpy as np
import optax

from unlearn_jax.types import LossFn, Params

# Of a path such as 'Dense_0/kernel': whether it is chosen, or which rows are.
SelectFn = Callable[[str], bool | frozenset[int]]

_ROW = re.compile(r'(.+)\[(\d+)\]')


def path_of(path: Sequence) -> str:
  """Returns a leaf's path as text, such as 'Dense_0/kernel'."""
  return keystr(tuple(path), simple=True, separator='/')


def in_block(path: str, block: str) -> bool:
  """Says whether a path lies in a block that is no row of a stack.

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
  whole = [block for block in chosen if not _ROW.fullmatch(block)]
  rows = [
    match.groups() for block in chosen if (match := _ROW.fullmatch(block))
  ]

  def select(path):
    if any(in_block(path, block) for block in whole):
      return True
    found = frozenset(int(i) for stack, i in rows if in_block(path, stack))
    return found or False

  return select


def from_first_row(blocks: Sequence[str]) -> tuple[str, ...]:
  """Counts rows from the first that is there, as they lie in a cut stack.

  >>> from_first_row(['layers[10]', 'layers[11]', 'norm'])
  ('layers[0]', 'layers[1]', 'norm')
  """
  first: dict[str, int] = {}

  def renamed(block):
    match = _ROW.fullmatch(block)
    if not match:
      return block
    stack, row = match.group(1), int(match.group(2))
    return f'{stack}[{row - first.setdefault(stack, row)}]'

  return tuple(map(renamed, blocks))


def matching(pattern: str) -> SelectFn:
  """Selects paths in which a regular expression is found; '' is all.

  Raises:
    ValueError: if it is none.
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise ValueError(f'must be a regular expression ({error}).') from None
  return lambda path: compiled.search(path) is not None


def selected(params: Params, select: SelectFn) -> Params:
  """Returns Python booleans shaped like `params`; arrays where rows are chosen.

  Raises:
    ValueError: if nothing is selected.
  """

  def of(path, leaf):
    found = select(path_of(path))
    if isinstance(found, bool):
      return found
    mask = np.isin(np.arange(len(leaf)), sorted(found))
    if mask.all():
      return True
    return mask.reshape(-1, *[1] * (leaf.ndim - 1)) if mask.any() else False

  mask = jax.tree.map_with_path(of, params)
  if not any(np.any(m) for m in jax.tree.leaves(mask)):
    raise ValueError('the blocks must name parameters, and name none of them.')
  return mask


def choose(mask: Params, new: Params, old: Params) -> Params:
  """Takes the leaves of `new` where `mask` is true, of `old` elsewhere."""

  def of(m, a, b):
    if isinstance(m, bool):
      return a if m else b
    return jnp.where(m, a, b)

  return jax.tree.map(of, mask, new, old)


def stop_elsewhere(loss_fn: LossFn, select: SelectFn) -> LossFn:
  """Returns a loss with no gradient outside of what is selected.

  The backward pass is then only as long as the selected blocks are deep; in a
  stack of layers it is as long as the stack (`part.last_k` cuts the stack).
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
    return jax.tree.map(lambda m: 'train' if np.any(m) else 'freeze', mask)

  leaves = optax.partition(
    {'train': tx, 'freeze': optax.stateless(_stay)}, label
  )

  def update_fn(updates, state, params=None):
    # Of a leaf of which some rows are chosen, `tx` sees zeros in the others.
    mask = selected(updates, select)
    zeros = jax.tree.map(jnp.zeros_like, updates)
    made, state = leaves.update(choose(mask, updates, zeros), state, params)
    return choose(mask, made, _stay(made, None)), state

  return optax.GradientTransformation(leaves.init, update_fn)


def _stay(updates, params):
  del params
  # Adding 0 would turn -0 into 0; adding -0 changes nothing.
  return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates)
