"""Maps of the embedding, folded into networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.models import registry
from unlearn_jax.models.embedding import map_embedding_fn


def setup(name, head='softmax'):
  classifier = registry.build(name, 3, (20, 40), head=head)
  params = classifier.init_fn(jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {'features': jnp.asarray(rng.normal(size=(4, 20, 40)), jnp.float32)}
  h = classifier.embed_fn(params, batch)
  d = h.shape[1]
  matrix = jnp.asarray(rng.normal(size=(d, d)) / np.sqrt(d), jnp.float32)
  offset = jnp.asarray(rng.normal(size=d), jnp.float32)
  fold = map_embedding_fn(classifier.embedding, classifier.blocks[-1])
  return classifier, params, batch, fold, h, matrix, offset


@pytest.mark.parametrize('head', registry.heads.HEADS)
def test_a_linear_layer_takes_the_map_in(head):
  classifier, params, batch, fold, h, matrix, offset = setup(
    'ecapa_tdnn_small', head
  )
  got = classifier.embed_fn(fold(params, matrix, offset), batch)
  np.testing.assert_allclose(got, h @ matrix + offset[None], atol=2e-4)


def test_without_one_the_head_does():
  classifier, params, batch, fold, h, matrix, offset = setup('tc_resnet8')
  mapped = fold(params, matrix, offset)
  np.testing.assert_array_equal(classifier.embed_fn(mapped, batch), h)
  head = params['Dense_0']
  want = (h @ matrix + offset[None]) @ head['kernel'] + head['bias'][None]
  np.testing.assert_allclose(
    classifier.predict_fn(mapped, batch), want, atol=1e-4
  )


def test_cosines_take_no_map_in():
  _, params, _, fold, _, matrix, offset = setup('tc_resnet8', 'aam')
  with pytest.raises(ValueError, match='a head of cosines takes no map in'):
    fold(params, matrix, offset)
