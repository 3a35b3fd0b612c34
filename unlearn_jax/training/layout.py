"""Where parameters and batches lie: data parallel, parameters fully sharded.

A mesh has two axes. Each batch is cut over `data`; each kernel, with all that
an optimizer keeps of it, is cut over `model`, along its largest axis that can
be. The compiler moves what a product needs, when it needs it; results are those
of one device within rounding.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from unlearn_jax.types import InputError

AXES = 'data', 'model'
_SMALLEST = 2**12  # Numbers of a leaf that is worth cutting.


@dataclasses.dataclass(frozen=True)
class Layout:
  """How arrays lie on devices.

  Attributes:
    mesh: of the axes `data` and `model`.
  """

  mesh: Mesh

  def state(self, tree: Any) -> Any:
    """Places parameters, or a state that has some: cuts what is large."""
    return jax.tree.map(lambda x: self._put(x, self._spec(x)), tree)

  def replicated(self, tree: Any) -> Any:
    """Places a whole copy on every device."""
    return jax.tree.map(lambda x: self._put(x, PartitionSpec()), tree)

  def batches(self, tree: Any) -> Any:
    """Places stacked batches [steps, batch, ...], cut over the batch."""
    size = self.mesh.shape['data']

    def put(x):
      cut = x.ndim > 1 and x.shape[1] % size == 0
      spec = PartitionSpec(None, 'data') if cut else PartitionSpec()
      return self._put(x, spec)

    return jax.tree.map(put, tree)

  def _put(self, x, spec):
    sharding = NamedSharding(self.mesh, spec)
    if isinstance(x, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    return _put_in_all_processes(x, sharding)

  def _spec(self, x):
    count = self.mesh.shape['model']
    if x.ndim < 2 or x.size < _SMALLEST or count == 1:
      return PartitionSpec()
    axes = [a for a in range(x.ndim) if x.shape[a] % count == 0]
    if not axes:
      return PartitionSpec()
    # Of equal ones the last: the first of a stack counts its layers.
    axis = max(axes, key=lambda a: (x.shape[a], a))
    return PartitionSpec(*[None] * axis, 'model')


def _put_in_all_processes(x, sharding):
  """Places an array that every process has whole, or that lies somewhere."""
  if not getattr(x, 'is_fully_addressable', True):
    if x.sharding.is_equivalent_to(sharding, x.ndim):
      return x
    return jax.jit(lambda x: x, out_shardings=sharding)(x)
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    data = _put_in_all_processes(jax.random.key_data(x), sharding)
    return jax.jit(jax.random.wrap_key_data)(data)
  whole = np.asarray(x)
  return jax.make_array_from_callback(
    whole.shape, sharding, lambda part: whole[part]
  )


def parse(text: str) -> Layout | None:
  """Reads '4x2': four parts of a batch, two of each kernel.

  Args:
    text: two numbers; '1x1' is one device, for which there is no layout.

  Raises:
    InputError: if it is something else, or not the number of devices.
  """
  numbers = text.split('x')
  if len(numbers) != 2 or not all(n.isdecimal() and int(n) for n in numbers):
    raise InputError(
      f'--mesh={text}: must be two whole numbers from 1 on, such as 4x2.'
    )
  data, model = map(int, numbers)
  if data * model == 1:
    return None
  if jax.device_count() != data * model:
    raise InputError(
      f'--mesh={text}: needs {data * model} devices, and there are '
      f'{jax.device_count()}; the product must be that.'
    )
  return make((data, model))


def make(shape: tuple[int, int]) -> Layout:
  """Returns the layout of a mesh of all devices, `shape` (data, model)."""
  devices = np.asarray(jax.devices()).reshape(shape)
  return Layout(Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2))
