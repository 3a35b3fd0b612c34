"""Affine maps of an embedding, folded into the parameters of a network."""

from unlearn_jax.types import MapEmbeddingFn


def map_embedding_fn(embedding: str, head: str) -> MapEmbeddingFn:
  """Returns what folds h -> h @ matrix + offset into parameters.

  A linear layer that makes the embedding takes the map in, and whoever reads
  the embedding sees it. Without one the linear head does: its logits become
  those of the mapped embedding, which itself stays as it was.

  Args:
    embedding: name of the linear layer whose output is the embedding; '' where
      there is none.
    head: name of the linear head.

  Raises:
    ValueError: when called without such a layer on a head that has no bias,
      since it normalises what it is given and takes no map in.
  """

  def fold(params, matrix, offset):
    layer = params[embedding or head]
    kernel, bias = layer['kernel'], layer.get('bias')
    if bias is None:
      raise ValueError(
        'a head of cosines takes no map in, and the embedding of this network '
        'is not the output of a linear layer.'
      )
    if embedding:
      new = kernel @ matrix, bias @ matrix + offset
    else:
      new = matrix @ kernel, bias + offset @ kernel
    new = {
      'kernel': new[0].astype(kernel.dtype),
      'bias': new[1].astype(bias.dtype),
    }
    return {**params, embedding or head: {**layer, **new}}

  return fold
