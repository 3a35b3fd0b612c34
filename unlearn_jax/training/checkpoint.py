"""Checkpoints, by Orbax's V1 API; no other file imports Orbax."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from unlearn_jax.types import InputError, Params

try:
  from orbax.checkpoint import v1 as ocp
except ImportError:  # Orbax 0.12 keeps it among its experiments.
  from orbax.checkpoint.experimental import v1 as ocp


def _abstract(tree):
  """The shapes, types and shardings that a restore must give."""
  here: jax.sharding.Sharding = jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  if jax.process_count() > 1:  # Orbax restores what all processes can see.
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('all',))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def describe_leaf(x):
    sharding = getattr(x, 'sharding', None) or here
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(describe_leaf, tree)


def save_params(
  path: pathlib.Path, params: Params, description: dict[str, Any]
) -> None:
  """Writes a model; a `kill -9` leaves the whole of it or nothing.

  Several processes all call it, with the same parameters.

  Args:
    path: a folder, made anew.
    params: a pytree of arrays, the same in all processes.
    description: what one must know to use it; anything JSON can hold.
  """
  with _os_errors(path):
    ocp.save(
      path.absolute(), params, overwrite=True, custom_metadata=description
    )


def is_there(path: pathlib.Path) -> bool:
  """Says whether there is something at `path`, the same in all processes."""
  found = path.exists()
  if jax.process_count() == 1:
    return found
  return bool(multihost_utils.broadcast_one_to_all(np.int32(found)))


def describe(path: pathlib.Path) -> dict[str, Any]:
  """Returns the description of a model that `save_params` wrote.

  Raises:
    InputError: if there is no checkpoint at `path`.
  """
  try:
    return dict(ocp.metadata(path.absolute()).custom_metadata or {})
  except Exception as error:  # Orbax raises many kinds for a bad folder.
    raise InputError(
      f'checkpoint {path}: not a checkpoint ({_first_line(error)}); expected '
      'a folder that a training run wrote.'
    ) from error


def load_params(path: pathlib.Path, like: Params) -> Params:
  """Reads a model with the structure, shapes and shardings of `like`.

  Args:
    path: where `save_params` wrote it.
    like: a pytree of arrays, or of their shapes and types.

  Raises:
    InputError: if there is none, or one of another shape or structure.
  """
  describe(path)
  stored = ocp.metadata(path.absolute()).metadata
  have, want = _shapes(stored), _shapes(like)
  for name in sorted(have.keys() | want.keys()):
    if have.get(name) != want.get(name):
      raise InputError(
        f'checkpoint {path}: {name} has shape {have.get(name, "none")}, the '
        f'network needs {want.get(name, "none")}.'
      )
  return ocp.load(path.absolute(), _abstract(like))


@contextlib.contextmanager
def _os_errors(path: pathlib.Path) -> Iterator[None]:
  """Turns what Orbax raises for a full disk and the like into an OSError."""
  try:
    yield
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is None:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  """Returns shapes by name; what is stored has names alone for its keys."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(x.shape)
    for path, x in leaves
  }


def _first_line(error: Exception) -> str:
  return str(error).strip().split('\n')[0][:120] or type(error).__name__


class RunCheckpoints:
  """The latest state of a run, by a number that grows, and its progress."""

  def __init__(self, folder: pathlib.Path):
    """Opens `folder`, which need not exist."""
    self._folder = folder
    policies = ocp.training.preservation_policies
    self._checkpointer = ocp.training.Checkpointer(
      folder.absolute(),
      preservation_policy=policies.LatestN(1),
      cleanup_tmp_directories=True,
    )

  def save(self, number: int, tree: Any, progress: dict[str, Any]) -> None:
    """Writes a state; `progress` is anything JSON can hold."""
    with _os_errors(self._folder):
      self._checkpointer.save(number, tree, custom_metadata=progress)

  def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """Returns (number, tree, progress), or None where there is none yet."""
    latest = self._checkpointer.latest
    if latest is None:
      return None
    tree = self._checkpointer.load(latest.step, _abstract(like))
    progress = self._checkpointer.metadata(latest.step).custom_metadata
    return latest.step, tree, dict(progress)

  def close(self) -> None:
    """Closes the folder."""
    self._checkpointer.close()
