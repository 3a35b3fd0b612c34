"""Tapped passes against `vmap` of `grad`, and what is not fit for one."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.models import registry as models
from unlearn_jax.models.conv import ConvOp
from unlearn_jax.models.dense import Dense
from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.per_example import clipping
from unlearn_jax.per_example import fisher
from unlearn_jax.per_example import gradients
from unlearn_jax.per_example import taps
from unlearn_jax.training.losses import cross_entropy

FRAMES, BINS, CLASSES = 23, 7, 3
NETWORK = TCResNet8(CLASSES, widths=(8, 16), groups=4)  # With one block.
REDUCE = gradients._GRADS


def predict_fn(params, batch):
  return NETWORK.apply({'params': params}, batch['features']).logits


LOSS = cross_entropy(predict_fn)


def make_batch(size=6, padding=2):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(size, FRAMES, BINS)).astype(np.float32)
  mask = (np.arange(size) < size - padding).astype(np.float32)
  x[mask == 0] = np.nan
  label = jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32)
  return {'features': jnp.asarray(x), 'label': label, 'mask': jnp.asarray(mask)}


def untapped(fun):
  """The same function, in which a tapped pass finds nothing."""
  return lambda params, batch: fun(
    jax.tree.map(lambda x: x * 1.0, params), batch
  )


def make_params(scale=1.0):
  shape = (1, FRAMES, BINS)
  params = NETWORK.init(jax.random.key(0), jnp.zeros(shape))['params']
  key = jax.random.key(1)  # Away from the zeros of the biases.
  return jax.tree.map(
    lambda x: x + 0.1 * scale * jax.random.normal(key, x.shape), params
  )


class MemoryTest(absltest.TestCase):
  """Layers take turns."""

  def test_never_holds_the_gradients_of_all_layers(self):
    size = 100
    classifier = models.build('tc_resnet8', 20, (98, 40))
    params = jax.eval_shape(classifier.init_fn, jax.random.key(0))
    batch = {
      'features': jax.ShapeDtypeStruct((size, 98, 40), jnp.float32),
      'label': jax.ShapeDtypeStruct((size,), jnp.int32),
      'mask': jax.ShapeDtypeStruct((size,), jnp.float32),
    }
    loss_fn = cross_entropy(classifier.predict_fn)
    norms = functools.partial(gradients.per_example_norms, loss_fn)
    program = jax.jit(norms).lower(params, batch).compile()
    everything = size * sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    peak = program.memory_analysis().temp_size_in_bytes
    self.assertLess(peak, 0.8 * everything)


class AgreeTest(parameterized.TestCase):
  """Both ways on TC-ResNet: one is taken apart from the other by its trace."""

  @parameterized.named_parameters(
    ('grads', gradients.per_example_grads, LOSS),
    ('norms', gradients.per_example_norms, LOSS),
    ('fisher', fisher.fisher_diagonal, LOSS),
    ('model_fisher', fisher.model_fisher_diagonal, predict_fn),
    (
      'absolute',
      lambda f, p, b, **o: gradients.per_example_sum(f, p, b, jnp.abs, **o),
      LOSS,
    ),
    (
      'clipped',
      lambda f, p, b, **o: clipping.clipped_sum(f, 2.0, **o)(p, b),
      LOSS,
    ),
  )
  def test_tapped_and_vmapped_agree(self, compute, fun):
    params, batch = make_params(), make_batch()
    want = jax.jit(lambda p, b: compute(untapped(fun), p, b))(params, batch)
    for microbatch in (None, 4):
      got = jax.jit(
        lambda p, b, m=microbatch: compute(fun, p, b, microbatch=m)
      )(params, batch)
      P.assert_close(got, want, rtol=2e-4, atol=2e-5)

  def test_which_way_is_taken(self):
    params, batch = make_params(), make_batch()
    self.assertTrue(taps.is_tappable(LOSS, params, batch, REDUCE))
    self.assertFalse(taps.is_tappable(untapped(LOSS), params, batch, REDUCE))

  @parameterized.product(name=tuple(models.NETWORKS))
  def test_networks_are_fit_for_tapped_passes(self, name):
    network = models.build(name, CLASSES, (FRAMES, BINS))
    shapes = jax.eval_shape(network.init_fn, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    loss_fn = cross_entropy(network.predict_fn)
    self.assertTrue(taps.is_tappable(loss_fn, params, make_batch(), REDUCE))

  def test_an_ordinary_pass_is_as_before(self):
    params, batch = make_params(), make_batch(padding=0)
    before = jax.grad(lambda p: LOSS(p, batch).sum())(params)
    gradients.per_example_norms(LOSS, params, batch)
    after = jax.grad(lambda p: LOSS(p, batch).sum())(params)
    P.assert_identical(after, before)
    self.assertFalse(taps.active())

  def test_under_vmap_over_models(self):
    batch = make_batch()
    both = [make_params(scale) for scale in (1.0, 2.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    got = jax.vmap(lambda p: gradients.per_example_norms(LOSS, p, batch))(
      stacked
    )
    want = [gradients.per_example_norms(LOSS, p, batch) for p in both]
    np.testing.assert_allclose(got, jnp.stack(want), rtol=1e-4)


class Twice(nn.Module):
  """Uses one layer twice: the square of a sum is not the sum of squares."""

  @nn.compact
  def __call__(self, x):
    layer = Dense(x.shape[0])
    return layer(nn.tanh(layer(x)))


class TwoLayers(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.tanh(Dense(5)(x))
    return Dense(CLASSES)(x)


def module_loss(module):
  def loss_fn(params, batch):
    x = batch['features'].transpose()
    return jnp.square(module.apply({'params': params}, x)).sum(0)

  return loss_fn


class FitnessTest(parameterized.TestCase):
  """What would come out wrong is found out, and goes the other way."""

  def batch(self):
    x = jax.random.normal(jax.random.key(0), (4, 5))
    return {'features': x, 'mask': jnp.ones(4)}

  def check(self, loss_fn, params, tappable):
    batch = self.batch()
    self.assertEqual(taps.is_tappable(loss_fn, params, batch, REDUCE), tappable)
    got = gradients.per_example_grads(loss_fn, params, batch)
    for i in range(4):
      row = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
      want = jax.grad(lambda p, r=row: loss_fn(p, r)[0])(params)
      P.assert_close(jax.tree.map(lambda g, i=i: g[i], got), want, rtol=1e-4)

  def make(self, module):
    x = self.batch()['features'].transpose()
    return module.init(jax.random.key(1), x)['params'], module_loss(module)

  def test_layers_used_once(self):
    params, loss_fn = self.make(TwoLayers())
    self.check(loss_fn, params, tappable=True)

  def test_a_layer_used_twice(self):
    params, loss_fn = self.make(Twice())
    self.check(loss_fn, params, tappable=False)

  def test_a_penalty_on_the_weights(self):
    params, loss_fn = self.make(TwoLayers())

    def penalised(params, batch):
      penalty = jnp.square(params['Dense_0']['kernel']).sum()
      return loss_fn(params, batch) + penalty[None]

    self.check(penalised, params, tappable=False)

  def test_a_weight_that_is_not_used(self):
    params, loss_fn = self.make(TwoLayers())
    self.check(loss_fn, {**params, 'spare': jnp.ones(2)}, tappable=False)

  def test_a_weight_that_is_returned(self):
    params, loss_fn = self.make(TwoLayers())
    params = {**params, 'scale': jnp.ones(4)}

    def fun(params, batch):
      loss_fn({k: v for k, v in params.items() if k != 'scale'}, batch)
      return params['scale']

    self.assertFalse(taps.is_tappable(fun, params, self.batch(), REDUCE))

  def test_two_names_of_one_array(self):
    params, loss_fn = self.make(TwoLayers())
    same = params['Dense_0']['kernel'][:, :CLASSES]
    square = {
      'Dense_0': params['Dense_0'],
      'Dense_1': {'kernel': same, 'bias': same[0]},
    }
    self.check(loss_fn, square, tappable=True)
    tied = {'a': same, 'b': same}

    def fun(params, batch):
      x = batch['features']
      return (x @ params['a'] + (x**2) @ params['b']).sum(1)

    self.check(fun, tied, tappable=False)


class ConvOpTest(parameterized.TestCase):
  @parameterized.product(stride=(1, 2), width=(1, 4, 9), native=(False, True))
  def test_gradients_of_examples(self, stride, width, native):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 11, 5)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(width, 3, 2)), jnp.float32)
    op = ConvOp(stride, native)
    cotangent = jnp.asarray(rng.normal(size=op(weight, x).shape), jnp.float32)

    def gradient(x, cotangent):
      _, pull = jax.vjp(lambda w: op(w, x[..., None]), weight)
      return pull(cotangent[..., None])[0]

    want = jnp.stack([gradient(x[..., i], cotangent[..., i]) for i in range(5)])
    got = op.grads(weight, x, cotangent)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    total = op.transformed_sum(jnp.square, weight, x, cotangent)
    np.testing.assert_allclose(total, (want**2).sum(0), rtol=1e-4, atol=1e-4)
    norms = op.squared_norms(weight, x, cotangent)
    np.testing.assert_allclose(norms, (want**2).sum((1, 2, 3)), rtol=1e-4)


if __name__ == '__main__':
  absltest.main()
