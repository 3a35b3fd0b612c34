"""Gradients, norms and sums of single examples against the NumPy twin."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.per_example import gradients
from unlearn_jax.training.losses import cross_entropy

NET = TCResNet8(3, widths=(8, 16), groups=4)  # With one block.
NET_LOSS = cross_entropy(
  lambda params, batch: NET.apply({'params': params}, batch['features']).logits
)


@functools.partial(jax.jit, static_argnames=('fun', 'microbatch'))
def everything(params, batch, fun=P.loss_fn, microbatch=None):
  """Returns gradients, norms, sums of absolute values and of squares."""
  args, options = (fun, params, batch), {'microbatch': microbatch}
  return (
    gradients.per_example_grads(*args, **options),
    gradients.per_example_norms(*args, **options),
    gradients.per_example_sum(*args, jnp.abs, **options),
    gradients.per_example_sum(*args, jnp.square, **options),
  )


def one_batch(size, padding=0, seed=1):
  return P.step_of(P.make_batches(seed, 1, size, padding), 0)


def twin_gradients(params, batch):
  """Gradients [batch, ...] in float64; 0 behind a zero mask."""
  params, rows = P.as_float64(params), P.real_rows(batch)
  p = np.exp(P.twin_log_softmax(P.twin_logits(params, rows)))
  slope = p - np.eye(P.CLASSES)[rows['label']]
  real = np.asarray(batch['mask']) > 0
  kernel = np.zeros((len(real), P.FEATURES, P.CLASSES))
  kernel[real] = np.float64(rows['features'])[:, :, None] * slope[:, None]
  bias = np.zeros((len(real), P.CLASSES))
  bias[real] = slope
  return {'kernel': kernel, 'bias': bias}


def twin_everything(params, batch):
  found = twin_gradients(params, batch)
  squares = {name: np.square(g) for name, g in found.items()}
  norms = sum(s.reshape(len(s), -1).sum(1) for s in squares.values())
  return (
    found,
    np.sqrt(norms),
    {name: np.abs(g).sum(0) for name, g in found.items()},
    {name: s.sum(0) for name, s in squares.items()},
  )


@functools.cache
def net_params():
  return jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 12, 8)))['params']


def net_batch(size, padding=0):
  rng = np.random.default_rng(3)
  features = rng.normal(size=(1, size, 12, 8)).astype(np.float32)
  label = rng.integers(0, 3, (1, size))
  mask = (np.arange(size) < size - padding).astype(np.float32)
  stacked = {'features': features, 'label': label, 'mask': mask[None]}
  return P.step_of(jax.tree.map(jnp.asarray, stacked), 0)


class TwinTest(parameterized.TestCase):
  @parameterized.product(
    size_and_padding=((1, 0), (7, 2), (12, 0)), microbatch=(None, 1, 3, 7, 50)
  )
  def test_equals_twin(self, size_and_padding, microbatch):
    params, batch = P.make_params(), one_batch(*size_and_padding)
    got = everything(params, batch, microbatch=microbatch)
    P.assert_close(got, twin_everything(params, batch))

  def test_the_square_is_not_that_of_the_mean(self):
    batch = {'x': jnp.asarray([1.0, -1.0]), 'mask': jnp.ones(2)}
    _, norms, absolute, squares = everything(
      jnp.zeros(()), batch, fun=lambda w, batch: w * batch['x']
    )
    np.testing.assert_array_equal(norms, [1.0, 1.0])
    np.testing.assert_array_equal((absolute, squares), (2.0, 2.0))

  def test_many_models_at_once_equal_each_alone(self):
    batch = one_batch(7, 2)
    params = jax.vmap(P.init_fn)(jax.random.split(jax.random.key(0), 3))
    many = jax.vmap(lambda p: everything(p, batch, microbatch=3))(params)
    for k in range(3):
      want = twin_everything(P.step_of(params, k), batch)
      P.assert_close(P.step_of(many, k), want)


class MaskTest(parameterized.TestCase):
  @parameterized.product(value=(np.nan, np.inf), microbatch=(None, 3))
  def test_what_stands_behind_the_mask_changes_nothing(self, value, microbatch):
    params, batch = P.make_params(), one_batch(8, 4)
    real = (batch['mask'] > 0)[:, None]
    wild = batch | {'features': jnp.where(real, batch['features'], value)}
    got = everything(params, wild, microbatch=microbatch)
    P.assert_identical(got, everything(params, batch, microbatch=microbatch))

  @parameterized.parameters(None, 3)
  def test_of_padding_alone_all_is_zero(self, microbatch):
    params, batch = P.make_params(), one_batch(7, 7)
    wild = batch | {'features': jnp.full_like(batch['features'], jnp.nan)}
    got = everything(params, wild, microbatch=microbatch)
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, got))

  def test_rows_in_the_middle_may_be_masked(self):
    params, batch = P.make_params(), one_batch(7)
    mask = jnp.asarray([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    batch = batch | {'mask': mask}
    got = everything(params, batch, microbatch=3)
    P.assert_close(got, twin_everything(params, batch))


class NetworkTest(parameterized.TestCase):
  """The layers of `models/` have a faster way to the same."""

  @parameterized.parameters(None, 3)
  def test_equals_a_loop_over_examples(self, microbatch):
    params = net_params()
    batch = net_batch(7, 2)
    got = everything(params, batch, fun=NET_LOSS, microbatch=microbatch)
    alone = jax.jit(jax.grad(lambda p, b: NET_LOSS(p, b)[0]))
    found = [
      alone(params, jax.tree.map(lambda x, k=k: x[k : k + 1], batch))
      for k in range(5)
    ]
    zeros = jax.tree.map(jnp.zeros_like, found[0])
    found = jax.tree.map(
      lambda *g: np.stack(g, dtype=np.float64), *found, zeros, zeros
    )
    norms = sum(
      np.square(g).reshape(7, -1).sum(1) for g in jax.tree.leaves(found)
    )
    P.assert_close(got[0], found, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got[1], np.sqrt(norms), rtol=1e-5)
    absolute, squares = (
      jax.tree.map(lambda g, f=f: f(g).sum(0), found)
      for f in (np.abs, np.square)
    )
    P.assert_close(got[2], absolute, rtol=1e-4, atol=1e-6)
    P.assert_close(got[3], squares, rtol=1e-4, atol=1e-6)

  @parameterized.parameters(2, 7)
  def test_what_stands_behind_the_mask_changes_nothing(self, padding):
    params = net_params()
    batch = net_batch(7, padding)
    real = (batch['mask'] > 0)[:, None, None]
    wild = batch | {'features': jnp.where(real, batch['features'], jnp.nan)}
    # The last piece is padding alone.
    got = everything(params, wild, fun=NET_LOSS, microbatch=3)
    want = everything(params, batch, fun=NET_LOSS, microbatch=3)
    P.assert_identical(got, want)
    if padding == 7:
      P.assert_identical(got, jax.tree.map(jnp.zeros_like, got))


class TypesTest(parameterized.TestCase):
  def test_half_precision(self):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), P.make_params())
    batch = one_batch(7, 2)
    batch['features'] = batch['features'].astype(jnp.bfloat16)
    for microbatch in (None, 3):
      got = everything(half, batch, microbatch=microbatch)
      types = [{str(x.dtype) for x in jax.tree.leaves(part)} for part in got]
      self.assertEqual(types, [{'bfloat16'}] + 3 * [{'float32'}])
      want = twin_everything(half, batch)
      P.assert_close(got, want, rtol=2e-2, atol=2e-2)

  def test_structure_and_inputs_are_kept(self):
    params, batch = P.make_params(), one_batch(7, 2)
    tree = [params['kernel'], ({'b': params['bias']},)]

    def fun(tree, batch):
      plain = {'kernel': tree[0], 'bias': tree[1][0]['b']}
      return P.loss_fn(plain, batch)

    got = everything(tree, batch, fun=fun, microbatch=3)
    want = everything(params, batch, microbatch=3)
    self.assertEqual(jax.tree.structure(got[0]), jax.tree.structure(tree))
    P.assert_identical(got[0], [want[0]['kernel'], ({'b': want[0]['bias']},)])
    P.assert_identical(params, P.make_params())
    P.assert_identical(batch, one_batch(7, 2))


def _wide_problem():
  """A network of 136 thousand parameters, as shapes."""

  def loss_fn(params, batch):
    hidden = jnp.tanh(batch['features'] @ params['a'])
    return jax.nn.logsumexp(hidden @ params['b'], axis=-1)

  params = {
    'a': jax.ShapeDtypeStruct((256, 512), jnp.float32),
    'b': jax.ShapeDtypeStruct((512, 10), jnp.float32),
  }
  return loss_fn, params, (256,)


def _network_problem():
  return NET_LOSS, net_params(), (12, 8)


class MemoryTest(parameterized.TestCase):
  @parameterized.parameters(_wide_problem, _network_problem)
  def test_of_norms_grows_with_the_microbatch_alone(self, problem):
    loss_fn, params, shape = problem()

    def peak(size, microbatch):
      batch = {
        'features': jax.ShapeDtypeStruct((size, *shape), jnp.float32),
        'label': jax.ShapeDtypeStruct((size,), jnp.int32),
        'mask': jax.ShapeDtypeStruct((size,), jnp.float32),
      }
      norms = functools.partial(
        gradients.per_example_norms, loss_fn, microbatch=microbatch
      )
      program = jax.jit(norms).lower(params, batch).compile()
      return program.memory_analysis().temp_size_in_bytes

    self.assertLess(peak(256, 4), 1.1 * peak(32, 4))
    self.assertGreater(peak(256, 32), 4 * peak(256, 4))


class BoundsTest(parameterized.TestCase):
  @parameterized.product(
    name=('per_example_grads', 'per_example_norms', 'per_example_sum'),
    microbatch=(0, -3),
  )
  def test_microbatch(self, name, microbatch):
    args = (jnp.abs,) if name == 'per_example_sum' else ()
    message = f'microbatch must be >= 1, got {microbatch}'
    with self.assertRaisesRegex(ValueError, message):
      getattr(gradients, name)(
        P.loss_fn, P.make_params(), one_batch(4), *args, microbatch=microbatch
      )


if __name__ == '__main__':
  absltest.main()
