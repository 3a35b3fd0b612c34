"""Every network of the registry, with few channels where it is run."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.models import bc_resnet
from unlearn_jax.models import ecapa_tdnn
from unlearn_jax.models import kwt
from unlearn_jax.models import registry
from unlearn_jax.models import tc_resnet
from unlearn_jax.models import x_vector
from unlearn_jax.per_example import gradients
from unlearn_jax.per_example import taps
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.types import InputError

FRAMES, BINS, CLASSES = 11, 20, 3

# By the name of a row, the same network with few channels and layers.
TINY = {
  'tc_resnet8': functools.partial(
    tc_resnet.TCResNet8, widths=(8, 8, 8, 8), groups=4
  ),
  'x_vector': functools.partial(
    x_vector.XVector, widths=(8,) * 5, embedding_size=6
  ),
  'ecapa_tdnn': functools.partial(
    ecapa_tdnn.ECAPATDNN,
    channels=12,
    aggregated=12,
    scale=3,
    bottleneck=4,
    embedding_size=6,
    group_size=4,
  ),
  'bc_resnet1': functools.partial(
    bc_resnet.BCResNet, stages=((1, 1.0, 1, 1), (2, 1.5, 2, 2))
  ),
  'kwt1': functools.partial(kwt.KWT, depth=2),
}
ANY_LENGTH = tuple(name for name in TINY if name != 'kwt1')
HEADED = (*((name, 'softmax') for name in TINY), ('tc_resnet8', 'aam'))


@functools.cache
def build(name, head='softmax'):
  row = registry.NETWORKS[name]._replace(module=TINY[name])
  shorter = ('layer_0', 'layer_1', 'stage_0', 'stage_1')  # What TINY leaves.
  blocks = [
    block
    for block in row.blocks
    if not block.startswith(('layer_', 'stage_')) or block in shorter
  ]
  row = row._replace(blocks=tuple(blocks))
  with mock.patch.dict(registry.NETWORKS, {name: row}):
    return registry.build(name, CLASSES, (FRAMES, BINS), head=head)


@functools.cache
def make_params(name, head='softmax', seed=0):
  params = build(name, head).init_fn(jax.random.key(seed))
  # Away from the initial ones and zeros, which would hide mistakes.
  return jax.tree.map(
    lambda x: x + 0.1 * np.cos(np.arange(x.size)).reshape(x.shape), params
  )


def make_batch(size=4, frames=FRAMES, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(-5.0, 3.0, (size, frames, BINS))
  return {
    'features': jnp.asarray(x, jnp.float32),
    'label': jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32),
    'mask': jnp.ones(size),
  }


def apply_head(params, embeddings, head):
  """Returns logits in float64."""
  kernel = np.asarray(params['kernel'], np.float64)
  if head == 'softmax':
    return embeddings @ kernel + np.asarray(params['bias'])[None]
  unit = lambda x, axis: x / np.linalg.norm(x, axis=axis, keepdims=True)  # noqa: E731
  return 30.0 * unit(embeddings, 1) @ unit(kernel, 0)


class NetworkTest(parameterized.TestCase):
  @parameterized.parameters(*HEADED)
  def test_head_of_the_embedding_is_the_logits(self, name, head):
    network, params = build(name, head), make_params(name, head)
    batch = make_batch()
    logits, embeddings, layers = jax.jit(
      lambda p, b: (
        network.predict_fn(p, b),
        network.embed_fn(p, b),
        network.layers_fn(p, b),
      )
    )(params, batch)
    self.assertEqual(logits.shape, (4, CLASSES))
    self.assertEqual(embeddings.dtype, jnp.float32)
    np.testing.assert_allclose(
      apply_head(params[network.blocks[-1]], embeddings, head),
      logits,
      rtol=1e-4,
      atol=1e-4,
    )
    self.assertEqual(set(layers), set(network.blocks))
    self.assertEqual({len(layer) for layer in layers.values()}, {4})
    last, before = (layers[block] for block in network.blocks[:-3:-1])
    np.testing.assert_allclose(last, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before, embeddings, rtol=1e-4, atol=1e-5)
    if network.embedding:
      self.assertEqual(network.blocks[-2], network.embedding)
      layer = params[network.embedding]
      self.assertEqual(layer['kernel'].shape[1], embeddings.shape[1])
      self.assertEqual(layer['bias'].shape, embeddings.shape[1:])

  @parameterized.parameters(*HEADED)
  def test_gradients_of_single_examples(self, name, head):
    network, params = build(name, head), make_params(name, head)
    loss_fn, batch = cross_entropy(network.predict_fn), make_batch(3)
    self.assertTrue(taps.is_tappable(loss_fn, params, batch, gradients._GRADS))
    got = jax.jit(functools.partial(gradients.per_example_grads, loss_fn))(
      params, batch
    )
    # One by one: no tapped pass, no batch, no vmap.
    alone = jax.jit(jax.grad(lambda p, b: loss_fn(p, b)[0]))
    examples = [
      jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(3)
    ]
    silent = alone(
      params, examples[0] | {'features': jnp.zeros((1, FRAMES, BINS))}
    )
    for leaf in jax.tree.leaves(silent):
      self.assertTrue(jnp.isfinite(leaf).all())
    for i, example in enumerate(examples):
      P.assert_close(
        jax.tree.map(lambda x, i=i: x[i], got),
        alone(params, example),
        rtol=2e-3,
        atol=2e-4,
      )

  @parameterized.parameters(*ANY_LENGTH)
  def test_reads_clips_of_any_length(self, name):
    network, params = build(name), make_params(name)
    for frames in (1, 30):
      logits = jax.jit(network.predict_fn)(params, make_batch(2, frames))
      self.assertEqual(logits.shape, (2, CLASSES))
      self.assertTrue(jnp.isfinite(logits).all())

  @parameterized.parameters(*TINY)
  def test_level_of_a_clip_does_not_matter_and_half_is_widened(self, name):
    network, params = build(name), make_params(name)
    predict = jax.jit(network.predict_fn)
    half = make_batch()['features'].astype(jnp.float16)
    want = predict(params, {'features': half.astype(jnp.float32)})
    louder = predict(params, {'features': half.astype(jnp.float32) + 4.0})
    np.testing.assert_allclose(louder, want, atol=5e-3)
    np.testing.assert_allclose(
      predict(params, {'features': half}), want, rtol=1e-4, atol=1e-5
    )

  @parameterized.parameters(*TINY)
  def test_vmap_over_models_equals_one_after_another(self, name):
    network, batch = build(name), make_batch(2)
    models = [make_params(name, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    predict = lambda p: network.predict_fn(p, batch)  # noqa: E731
    got = jax.jit(jax.vmap(predict))(stacked)
    for logits, params in zip(got, models, strict=True):
      want = jax.jit(predict)(params)
      np.testing.assert_allclose(logits, want, rtol=1e-3, atol=1e-4)

  @parameterized.parameters(*TINY)
  def test_learns_which_half_of_the_bins_is_loud(self, name):
    network, batch = build(name), make_batch(16)
    label = np.arange(16) % 2
    loud = np.arange(BINS) // (BINS // 2) == label[:, None]
    x = batch['features'] + 4.0 * loud[:, None]
    batch |= {'features': x, 'label': jnp.asarray(label, jnp.int32)}
    loss_fn, tx = cross_entropy(network.predict_fn), optax.adam(3e-3)

    def step(state, _):
      params, optimizer = state
      loss, gradient = jax.value_and_grad(lambda p: loss_fn(p, batch).mean())(
        params
      )
      updates, optimizer = tx.update(gradient, optimizer)
      return (optax.apply_updates(params, updates), optimizer), loss

    params = network.init_fn(jax.random.key(0))
    run = jax.jit(lambda s: jax.lax.scan(step, s, None, 60))
    _, losses = run((params, tx.init(params)))
    self.assertGreater(losses[0], 0.3)
    self.assertLess(losses[-1], 0.1)


class KWTTest(absltest.TestCase):
  def test_another_number_of_frames(self):
    network, params = build('kwt1'), make_params('kwt1')
    with self.assertRaisesRegex(ValueError, 'have 11 frames, got 12.$'):
      network.predict_fn(params, make_batch(frames=12))


class BuildTest(parameterized.TestCase):
  def test_unknown_network_and_head(self):
    with self.assertRaisesRegex(InputError, '^--model=x: .* tc_resnet8, '):
      registry.build('x', 2, (98, 40))
    with self.assertRaisesRegex(InputError, '^--head=x: .* softmax, aam.$'):
      registry.build('tc_resnet8', 2, (98, 40), head='x')

  @parameterized.parameters(('softmax', 1.0), ('aam', 30.0))
  def test_says_what_its_head_is(self, head, scale):
    network = registry.build('tc_resnet8', 2, (98, 40), head=head)
    self.assertEqual((network.head, network.logit_scale), (head, scale))


if __name__ == '__main__':
  absltest.main()
