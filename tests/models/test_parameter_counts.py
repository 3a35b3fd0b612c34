"""Networks have as many parameters as in the papers."""

import jax
import jax.numpy as jnp
import pytest

from unlearn_jax.models import bc_resnet
from unlearn_jax.models import registry


def sizes(module, shape):
  """Returns the parameters by block, without computing any."""
  params = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape)))['params']
  )
  return {
    block: sum(leaf.size for leaf in jax.tree.leaves(params[block]))
    for block in params
  }


def count(name, shape, classes=12):
  return sizes(registry.NETWORKS[name].module(classes, 'softmax'), shape)


def test_x_vector():
  # Table 1 for 24 filterbanks: 4.2 million without segment7 and the softmax,
  # which come after the embedding. Its sizes count weights alone: ours have a
  # bias a channel, and a scale and a bias in the place of BatchNorm.
  by_block = count('x_vector', (200, 24))
  norms_and_biases = 3 * (4 * 512 + 1500) + 512
  total = sum(by_block.values()) - by_block['head']
  assert total - norms_and_biases == 4_200_448
  assert by_block['segment6'] == 3000 * 512 + 512


def test_ecapa_tdnn():
  # Table 1: 6.2 million for 512 channels, 80 bins and d = 192, no head. The
  # norms count as the BatchNorm that they replace; the paper has one more,
  # after the embedding, of 384.
  by_block = count('ecapa_tdnn', (200, 80))
  assert sum(by_block.values()) - by_block['head'] == 6_194_048


@pytest.mark.parametrize(
  'name,want', [('kwt1', 607_436), ('kwt2', 2_394_508), ('kwt3', 5_361_228)]
)
def test_kwt(name, want):
  # Table 1: 607, 2,394 and 5,361 thousand for 98 frames of 40 and 12 classes.
  assert sum(count(name, (98, 40)).values()) == want


@pytest.mark.parametrize(
  'tau,want',
  [(1, 9_232), (2, 27_284), (3, 54_168), (6, 187_812), (8, 321_068)],
)
def test_bc_resnet(tau, want):
  # Table 2: 9.2, 27.3, 54.2, 188 and 321 thousand for 40 bins, 12 classes; the
  # norms have what BatchNorm and SubSpectralNorm of 5 bands have.
  assert sum(sizes(bc_resnet.BCResNet(12, tau=tau), (98, 40)).values()) == want


@pytest.mark.parametrize(
  'name,want',
  [
    ('tc_resnet8', 65_148),
    ('x_vector_small', 105_932),
    ('ecapa_tdnn_small', 172_540),
    ('bc_resnet1', 9_232),
    ('bc_resnet3', 54_168),
    ('bc_resnet8', 321_068),
  ],
)
def test_rows(name, want):
  assert sum(count(name, (98, 40)).values()) == want


@pytest.mark.parametrize('name', registry.NETWORKS)
def test_embeddings_come_from_the_layer_that_the_row_names(name):
  network = registry.NETWORKS[name]
  by_block = count(name, (98, 40))
  assert set(by_block) == set(network.blocks)
  if network.embedding:
    assert network.embedding == network.blocks[-2]
