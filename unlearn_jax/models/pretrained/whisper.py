"""The encoder of Whisper: log-mels of a fixed window, then a transformer.

Every example is 30 seconds long, silence behind it included, so there are no
masks. Positions are sinusoids that `transformers` stores and does not train;
they stand among the parameters, behind a stop of the gradient.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022, https://arxiv.org/abs/2212.04356, section 2.2; numbers as
`transformers` has them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models.gelu import gelu
from unlearn_jax.models.pretrained import convolution
from unlearn_jax.models.pretrained import layers
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained.config import Fields
from unlearn_jax.models.pretrained.tensors import Tensor
from unlearn_jax.types import Params

_LAYER = {
  'query': 'self_attn.q_proj',
  'key': 'self_attn.k_proj',
  'value': 'self_attn.v_proj',
  'output': 'self_attn.out_proj',
  'expand': 'fc1',
  'contract': 'fc2',
  'attention_norm': 'self_attn_layer_norm',
  'output_norm': 'final_layer_norm',
}


@dataclasses.dataclass(frozen=True)
class Config:
  """The sizes of a network.

  Attributes:
    bins: of the log-mels.
    positions: frames in the transformer; there are twice as many log-mels.
    stack: the transformer.
  """

  bins: int
  positions: int
  stack: layers.Stack

  @classmethod
  def read(cls, fields: Fields) -> 'Config':
    """Reads a `config.json`.

    Raises:
      InputError: if it describes what is not built here, or nonsense.
    """
    fields.expect('activation_function', 'gelu')
    width = fields.integer('d_model', 384)
    heads = fields.integer('encoder_attention_heads', 6)
    if width % heads:
      raise fields.error(
        'encoder_attention_heads', heads, f'a divisor of d_model {width}'
      )
    return cls(
      bins=fields.integer('num_mel_bins', 80),
      positions=fields.integer('max_source_positions', 1500),
      stack=layers.Stack(
        layers=fields.integer('encoder_layers', 4),
        width=width,
        heads=heads,
        inner=fields.integer('encoder_ffn_dim', 1536),
        pre_norm=True,
        epsilon=1e-5,
      ),
    )

  @property
  def window(self) -> int:
    """Returns the samples of the shortest recording: its start is mirrored."""
    return 201

  @property
  def blocks(self) -> tuple[str, ...]:
    """Returns the parts of the encoder, from input to output."""
    stacked = (f'layers[{i}]' for i in range(self.stack.layers))
    return 'conv_0', 'conv_1', *stacked, 'norm'

  def tensors(self) -> list[Tensor]:
    """Returns the leaves of the encoder."""
    width = self.stack.width
    return [
      *tensors_lib.conv(('conv_0',), 'encoder.conv1', self.bins, width, 3),
      *tensors_lib.conv(('conv_1',), 'encoder.conv2', width, width, 3),
      Tensor(
        ('positions',),
        'encoder.embed_positions.weight',
        (self.positions, width),
      ),
      *tensors_lib.norm(('norm',), 'encoder.layer_norm', width),
      *tensors_lib.transformer(
        'encoder.layers.{}',
        _LAYER,
        self.stack.layers,
        width,
        self.stack.inner,
        key_bias=False,
      ),
    ]


def encode(
  config: Config,
  params: Params,
  log_mel: jax.Array,
  samples: None = None,
  *,
  remat: bool = False,
  shares: jax.Array | None = None,
) -> layers.Encoded:
  """Maps log-mels to frames.

  Args:
    config: sizes.
    params: of the encoder.
    log_mel: [batch, 2 * positions, bins]; its type is that of the computation.
    samples: None; there is no padding that it would tell.
    remat: compute activations again in the backward pass.
    shares: [layers + 1], of a sum over layers; None for the last alone.

  Returns:
    what the classifier reads.
  """
  del samples
  x, means = log_mel, {}
  for i, stride in enumerate((1, 2)):
    block = params[f'conv_{i}']
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    x = convolution.valid(x, block['kernel'], stride)
    x = gelu(layers.shift(x, block['bias']))
    means[f'conv_{i}'] = x.mean(1)
  x = layers.shift(x, jax.lax.stop_gradient(params['positions']))
  x, by_layer, total = layers.run(
    config.stack, params['layers'], x, None, remat=remat, shares=shares
  )
  means |= {f'layers[{i}]': mean for i, mean in enumerate(by_layer)}
  x = layers.norm(params['norm'], x, config.stack.epsilon)
  means['norm'] = x.mean(1)
  if shares is not None:
    x = total + shares[-1].astype(x.dtype) * x
  return layers.Encoded(x, None, means)


def sinusoids(length: int, channels: int) -> np.ndarray:
  """Returns what tells positions, [length, channels] float32."""
  steps = np.log(10_000) / (channels // 2 - 1)
  rates = np.exp(-steps * np.arange(channels // 2))
  angles = np.arange(length)[:, None] * rates
  return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
