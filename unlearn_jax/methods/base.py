"""What unlearning rules share: lifting a direction or an edit to a method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.types import (
  Batch,
  EmbedFn,
  Metrics,
  Params,
  Side,
  UnlearningMethod,
)


class GradientState(NamedTuple):
  """State of a method that follows a direction.

  Attributes:
    optimizer: state of the optax transform.
    hyper: hyper-parameters that one would sweep, as arrays.
    frozen: what the rule keeps of the original model, a teacher for instance.
  """

  optimizer: optax.OptState
  hyper: dict[str, jax.Array]
  frozen: Any


class DirectionFn(Protocol):
  """A rule that is a gradient, or behaves like one."""

  def __call__(
    self,
    params: Params,
    forget: Batch | None,
    retain: Batch | None,
    key: jax.Array,
    frozen: Any,
    hyper: Mapping[str, jax.Array],
  ) -> tuple[Params, Metrics]:
    """Returns a descent direction shaped like `params`, and metrics."""


def from_direction(
  direction_fn: DirectionFn,
  tx: optax.GradientTransformation,
  *,
  hyper: Mapping[str, float] | None = None,
  freeze: Callable[[Params, jax.Array], Any] | None = None,
  needs: Iterable[Side] = (),
) -> UnlearningMethod:
  """Lifts a descent direction to a method that follows it with `tx`.

  Args:
    direction_fn: the rule.
    tx: any optax transform.
    hyper: scalars of the rule; they live in the state as arrays, so that one
      compiled program serves every value, or a `vmap` over them.
      `optax.tree_utils.tree_set(state, name=jnp.float32(value))` changes one.
    freeze: maps (params, key) to what the rule keeps; it is copied.
    needs: the sets without which the rule cannot run.
  """

  def init_fn(params, key):
    frozen = () if freeze is None else freeze(params, key)
    return GradientState(
      optimizer=tx.init(params),
      hyper={k: jnp.asarray(v, jnp.float32) for k, v in (hyper or {}).items()},
      frozen=jax.tree.map(jnp.copy, frozen),
    )

  def update_fn(params, state, forget, retain, key):
    forget, retain = (
      None if batch is None else fill_padding(batch)
      for batch in (forget, retain)
    )
    direction, metrics = direction_fn(
      params, forget, retain, key, state.frozen, state.hyper
    )
    updates, optimizer = tx.update(direction, state.optimizer, params)
    params = optax.apply_updates(params, updates)
    return params, state._replace(optimizer=optimizer), metrics

  return UnlearningMethod(init_fn, update_fn, needs=frozenset(needs))


class EditState(NamedTuple):
  """State of a method that edits the parameters once.

  Attributes:
    hyper: hyper-parameters that one would sweep, as arrays.
    report: scalars that tell how the edit went; 0 before it.
  """

  hyper: dict[str, jax.Array]
  report: Metrics


class EditFn(Protocol):
  """A rule that needs no steps."""

  def __call__(
    self,
    params: Params,
    forget: Any,
    retain: Any,
    examples: Batch | None,
    key: jax.Array,
    hyper: Mapping[str, jax.Array],
  ) -> tuple[Params, Metrics]:
    """Returns edited parameters and scalars that tell how it went.

    The sets are stacked batches as `training.loop.fold` takes them.
    """


def from_edit(
  edit_fn: EditFn,
  *,
  hyper: Mapping[str, float] | None = None,
  report: Sequence[str] = (),
  needs: Iterable[Side] = (),
) -> UnlearningMethod:
  """Lifts an edit to a method: `prepare` makes it, steps change nothing.

  Args:
    edit_fn: the rule.
    hyper: scalars of the rule, as in `from_direction`.
    report: names of the scalars that `edit_fn` returns.
    needs: the sets without which the rule cannot run.
  """

  def init_fn(params, key):
    del params, key
    return EditState(
      hyper={k: jnp.asarray(v, jnp.float32) for k, v in (hyper or {}).items()},
      report={name: jnp.zeros(()) for name in report},
    )

  def update_fn(params, state, forget, retain, key):
    del forget, retain, key
    return params, state, {}

  def prepare_fn(params, state, forget, retain, examples, key):
    params, made = edit_fn(params, forget, retain, examples, key, state.hyper)
    made = {name: jnp.asarray(made[name], jnp.float32) for name in report}
    return params, state._replace(report=made)

  return UnlearningMethod(init_fn, update_fn, prepare_fn, frozenset(needs))


def check_range(
  name: str, value: float, low: float, high: float = float('inf')
) -> None:
  """Raises a ValueError that names the bound if `value` is outside [low, high].

  A nan is outside of every range.
  """
  if not low <= value <= high:
    bound = f'in [{low:g}, {high:g}]' if high < float('inf') else f'>= {low:g}'
    raise ValueError(f'{name} must be {bound}, got {value}.')


def need_embedding(embed_fn: EmbedFn | None) -> EmbedFn:
  """Returns `embed_fn`.

  Raises:
    ValueError: if it is None.
  """
  if embed_fn is None:
    raise ValueError('embed_fn must be given, got None.')
  return embed_fn


def if_any(mask: jax.Array, objective: Callable[[], jax.Array]) -> jax.Array:
  """Evaluates `objective` () -> scalar where `mask` has a one, else 0.

  Rules that alternate between the two sets leave one batch empty at each
  step; its forward and backward pass is then skipped.
  """
  return jax.lax.cond(mask.sum() > 0, objective, lambda: jnp.zeros(()))
