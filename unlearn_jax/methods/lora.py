r"""LoRA: let any gradient rule change a network by products of low rank alone.

.. math::
  W = W_o + \tfrac{a}{r} B A, \quad A \in R^{r \times in} \sim N(0, 1/r),
  \quad B = 0 \in R^{out \times r}

A wrapper: the parameters of the rule inside are A and B of each kernel, see
`methods.part`; the network as it was stays so bit for bit. Data: what that rule
needs. A kernel [..., in, out], a convolution's for instance, counts as one of
[... * in, out]; kernels of equal layers that lie stacked have an A and a B
each.

References:
  Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1.
"""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.blocks import in_block
from unlearn_jax.methods.blocks import path_of
from unlearn_jax.methods.blocks import SelectFn
from unlearn_jax.methods.part import Build
from unlearn_jax.methods.part import of_part
from unlearn_jax.methods.part import Part
from unlearn_jax.methods.spec import Problem
from unlearn_jax.types import Params, UnlearningMethod


class Factors(NamedTuple):
  """A [rank, in] and B [out, rank] of one kernel, in float32 at least.

  Those of stacked kernels are stacked: [layers, rank, in], [layers, out, rank].
  """

  a: jax.Array
  b: jax.Array


def init_adapters(
  params: Params,
  key: jax.Array,
  rank: int,
  select: SelectFn | None = None,
  stacks: Sequence[str] = (),
) -> dict[str, Factors]:
  """Returns factors whose product is 0 for every kernel that is selected.

  Args:
    params: any pytree of arrays; leaves with two axes or more are kernels.
    key: of the draw of A.
    rank: r, at least 1.
    select: says of a path whether its kernel is adapted; None is all.
    stacks: paths under which the first axis counts layers.

  Raises:
    ValueError: if no kernel is selected.
  """
  adapters: dict[str, Factors] = {}
  for path, leaf in jax.tree.leaves_with_path(params):
    name = path_of(path)
    layers = leaf.shape[:1] if _is_stacked(name, stacks) else ()
    shape = leaf.shape[len(layers) :]
    if len(shape) < 2 or not (select is None or select(name)):
      continue
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    draw_key = jax.random.fold_in(key, len(adapters))
    draw = jax.random.normal(draw_key, (*layers, rank, inputs), dtype)
    zeros = jnp.zeros((*layers, outputs, rank), dtype)
    adapters[name] = Factors(draw / math.sqrt(rank), zeros)
  if not adapters:
    raise ValueError('select must name kernels, and names none of them.')
  return adapters


def merge(
  params: Params, adapters: Mapping[str, Factors], scale: jax.typing.ArrayLike
) -> Params:
  """Folds the products into the kernels; types and shapes stay.

  Args:
    params: the network as it was.
    adapters: by the paths of its kernels.
    scale: a of the formula.
  """

  def add(path, leaf):
    factors = adapters.get(path_of(path))
    if factors is None:
      return leaf
    change = scale / factors.a.shape[-2] * (factors.b @ factors.a)
    change = jnp.swapaxes(change, -1, -2).reshape(leaf.shape)
    return (leaf + change).astype(leaf.dtype)

  return jax.tree.map_with_path(add, params)


def _is_stacked(name, stacks):
  return any(in_block(name, stack) for stack in stacks)


def lora(
  build: Build,
  problem: Problem,
  tx: optax.GradientTransformation,
  *,
  rank: int = 8,
  scale: float = 16.0,
  select: SelectFn | None = None,
) -> UnlearningMethod:
  """Restricts a gradient rule to changes of low rank.

  Args:
    build: makes the inner rule, whose parameters are `Factors` by path.
    problem: the network.
    tx: any optax transform; it sees the adapters alone.
    rank: r, at least 1.
    scale: a, at least 0; 0 is the identity. It is `lora_scale` in the state.
    select: says of a path, such as 'Dense_0/kernel', whether that kernel is
      adapted; None is all leaves with two axes or more.

  Raises:
    ValueError: if an option is outside its bounds; in `init` if no kernel is
      selected.
  """
  base.check_range('rank', rank, 1)
  base.check_range('scale', scale, 0.0)

  def split(params, key):
    return params, init_adapters(params, key, rank, select, problem.stacks)

  def join(params, adapters, hyper):
    return merge(params, adapters, hyper['lora_scale'])

  def view(params, adapters, hyper):
    beside = {
      path
      for path in adapters
      if problem.is_linear is not None and problem.is_linear(path)
    }
    rest = {p: f for p, f in adapters.items() if p not in beside}
    params = merge(params, rest, hyper['lora_scale'])
    for path in beside:
      a, b = adapters[path]
      b = hyper['lora_scale'] / a.shape[-2] * b
      params = _with(params, path.split('/')[:-1], low_rank=(a, b))
    return params

  return of_part(
    build, problem, tx, Part(split, join, view), hyper={'lora_scale': scale}
  )


def _with(tree, keys, **leaves):
  """Returns a tree of dicts with leaves added under a path."""
  if not keys:
    return {**tree, **leaves}
  return {**tree, keys[0]: _with(tree[keys[0]], keys[1:], **leaves)}
