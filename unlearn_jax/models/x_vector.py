"""The x-vector network for speaker recognition.

Five time-delay layers, mean and standard deviation over time, an affine layer
whose output is the embedding. GroupNorm takes the place of BatchNorm, so that
the gradient of one example is defined; frames are padded with zeros, so that
there are as many after a layer as before it and a clip may be of any length.

The paper takes its embedding from segment6 and lets segment7 and a softmax
follow, which serve training alone and are thrown away. Here the head reads the
embedding itself, as an angular margin must, and there is no segment7.

Source: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker
Recognition", ICASSP 2018, table 1.
"""

from flax import linen as nn
import jax

from unlearn_jax.models import heads
from unlearn_jax.models.dense import Dense
from unlearn_jax.models.outputs import Outputs
from unlearn_jax.models.standardise import standardise
from unlearn_jax.models.tdnn import statistics
from unlearn_jax.models.tdnn import TDNN

# Kernel size and dilation of frame1 to frame5.
_CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))


class XVector(nn.Module):
  """The x-vector network; 4.2 million weights before the head.

  Attributes:
    num_classes: outputs.
    head: in `heads.HEADS`.
    widths: channels of the five time-delay layers.
    embedding_size: d.
    group_size: channels that are normalised together; must divide the widths.
  """

  num_classes: int
  head: str = 'softmax'
  widths: tuple[int, ...] = (512, 512, 512, 512, 1500)
  embedding_size: int = 512
  group_size: int = 4

  @nn.compact
  def __call__(self, features: jax.Array) -> Outputs:
    """Maps log-mels [batch, frames, bins] to logits and embeddings.

    Args:
      features: any float type, any number of frames.
    """
    x = standardise(features).transpose()
    layers = zip(self.widths, _CONTEXTS, strict=True)
    for i, (width, (taps, dilation)) in enumerate(layers, 1):
      x = TDNN(width, taps, dilation, self.group_size, name=f'frame{i}')(x)
    x = Dense(self.embedding_size, name='segment6')(statistics(x))
    return heads.outputs(x, self.head, self.num_classes, 'head')
