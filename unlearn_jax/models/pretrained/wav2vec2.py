"""wav2vec 2.0 and HuBERT: convolutions over the waveform, then a transformer.

One architecture: HuBERT was trained otherwise, and may lack the norm before its
projection. The base models normalise the first convolution's channels over time
and the sums of their layers; the large ones normalise every convolution over
channels and what goes into their layers. There is no dropout and no masking of
spans, so `masked_spec_embed`, which only they read, stands among the parameters
and is read by nothing.

Sources: Baevski et al., "wav2vec 2.0", NeurIPS 2020,
https://arxiv.org/abs/2006.11477, section 2; Hsu et al., "HuBERT", 2021,
https://arxiv.org/abs/2106.07447, section 2; numbers as `transformers` has them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.models.gelu import gelu
from unlearn_jax.models.pretrained import convolution
from unlearn_jax.models.pretrained import layers
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained.config import Fields
from unlearn_jax.models.pretrained.tensors import Tensor
from unlearn_jax.types import Params

_CONV_EPSILON = 1e-5  # Of the norms of convolutions, whatever the config says.
_LAYER = {
  'query': 'attention.q_proj',
  'key': 'attention.k_proj',
  'value': 'attention.v_proj',
  'output': 'attention.out_proj',
  'expand': 'feed_forward.intermediate_dense',
  'contract': 'feed_forward.output_dense',
  'attention_norm': 'layer_norm',
  'output_norm': 'final_layer_norm',
}


@dataclasses.dataclass(frozen=True)
class Config:
  """The sizes of a network.

  Attributes:
    prefix: of the names of its tensors in a file.
    channels: of each convolution over the waveform.
    widths: of their kernels, in samples or frames.
    strides: of each, likewise.
    conv_bias: whether they have biases.
    norm_each: every convolution is normalised over its channels; else the first
      alone, each channel over time.
    project_norm: whether what is projected is normalised.
    position_width: of the convolution that tells positions, in frames.
    position_groups: of its channels.
    masked: whether there is a `masked_spec_embed`.
    stack: the transformer.
  """

  prefix: str
  channels: tuple[int, ...]
  widths: tuple[int, ...]
  strides: tuple[int, ...]
  conv_bias: bool
  norm_each: bool
  project_norm: bool
  position_width: int
  position_groups: int
  masked: bool
  stack: layers.Stack

  @classmethod
  def read(cls, fields: Fields) -> 'Config':
    """Reads a `config.json`.

    Raises:
      InputError: if it describes what is not built here, or nonsense.
    """
    fields.expect('hidden_act', 'gelu')
    fields.expect('feat_extract_activation', 'gelu')
    for name in ('conv_pos_batch_norm', 'add_adapter'):
      fields.expect(name, False)
    fields.expect('adapter_attn_dim', None)
    channels = fields.integers('conv_dim', (512,) * 7)
    widths = fields.integers('conv_kernel', (10, 3, 3, 3, 3, 2, 2))
    strides = fields.integers('conv_stride', (5, 2, 2, 2, 2, 2, 2))
    if not len(channels) == len(widths) == len(strides):
      raise fields.error('conv_stride', strides, 'as long as conv_dim')
    width = fields.integer('hidden_size', 768)
    heads = fields.integer('num_attention_heads', 12)
    groups = fields.integer('num_conv_pos_embedding_groups', 16)
    for name, count in (
      ('num_attention_heads', heads),
      ('num_conv_pos_embedding_groups', groups),
    ):
      if width % count:
        raise fields.error(name, count, f'a divisor of hidden_size {width}')
    masked = max(
      fields.share('mask_time_prob', 0.05),
      fields.share('mask_feature_prob', 0.0),
    )
    return cls(
      prefix=fields.values['model_type'],
      channels=channels,
      widths=widths,
      strides=strides,
      conv_bias=fields.flag('conv_bias', False),
      norm_each=fields.expect('feat_extract_norm', 'group', 'layer') == 'layer',
      project_norm=fields.flag('feat_proj_layer_norm', True),
      position_width=fields.integer('num_conv_pos_embeddings', 128),
      position_groups=groups,
      masked=masked > 0,
      stack=layers.Stack(
        layers=fields.integer('num_hidden_layers', 12),
        width=width,
        heads=heads,
        inner=fields.integer('intermediate_size', 3072),
        pre_norm=fields.flag('do_stable_layer_norm', False),
        epsilon=fields.number('layer_norm_eps', 1e-5),
      ),
    )

  @property
  def window(self) -> int:
    """Returns the samples that one frame sees, the shortest waveform."""
    samples = 1
    for width, stride in zip(
      reversed(self.widths), reversed(self.strides), strict=True
    ):
      samples = (samples - 1) * stride + width
    return samples

  @property
  def hop(self) -> int:
    """Returns the samples from one frame to the next."""
    return math.prod(self.strides)

  def frames(self, samples: Any) -> Any:
    """Returns how many frames come of so many samples; arrays too."""
    for width, stride in zip(self.widths, self.strides, strict=True):
      samples = (samples - width) // stride + 1
    return samples

  @property
  def blocks(self) -> tuple[str, ...]:
    """Returns the parts of the encoder, from input to output."""
    stacked = [f'layers[{i}]' for i in range(self.stack.layers)]
    parts = ['projection', 'positions', *stacked]
    parts.insert(len(parts) if self.stack.pre_norm else 2, 'norm')
    convolutions = (f'conv_{i}' for i in range(len(self.channels)))
    return *convolutions, *parts

  def tensors(self) -> list[Tensor]:
    """Returns the leaves of the encoder."""
    width = self.stack.width
    found = []
    inputs = 1
    for i, outputs in enumerate(self.channels):
      path, name = f'conv_{i}', f'feature_extractor.conv_layers.{i}'
      found += tensors_lib.conv(
        (path,),
        f'{name}.conv',
        inputs,
        outputs,
        self.widths[i],
        bias=self.conv_bias,
      )
      if self.norm_each or i == 0:
        found += tensors_lib.norm((path, 'norm'), f'{name}.layer_norm', outputs)
      inputs = outputs
    if self.project_norm:
      found += tensors_lib.norm(
        ('projection', 'norm'), 'feature_projection.layer_norm', inputs
      )
    found += tensors_lib.linear(
      ('projection',), 'feature_projection.projection', inputs, width
    )
    if self.masked:
      found.append(Tensor(('masked_frame',), 'masked_spec_embed', (width,)))
    position = 'encoder.pos_conv_embed.conv'
    weight = f'{position}.parametrizations.weight.original'
    shape = width, width // self.position_groups, self.position_width
    found += [
      Tensor(
        ('positions', 'gain'), f'{weight}0', (1, 1, self.position_width), 'conv'
      ),
      Tensor(('positions', 'direction'), f'{weight}1', shape, 'conv'),
      Tensor(('positions', 'bias'), f'{position}.bias', (width,)),
      *tensors_lib.norm(('norm',), 'encoder.layer_norm', width),
      *tensors_lib.transformer(
        'encoder.layers.{}',
        _LAYER,
        self.stack.layers,
        width,
        self.stack.inner,
      ),
    ]
    return [
      tensor._replace(name=f'{self.prefix}.{tensor.name}') for tensor in found
    ]


def encode(
  config: Config,
  params: Params,
  waveform: jax.Array,
  samples: jax.Array | None,
  *,
  remat: bool = False,
  shares: jax.Array | None = None,
) -> layers.Encoded:
  """Maps waveforms to frames.

  Args:
    config: sizes.
    params: of the encoder.
    waveform: [batch, samples] as the model wants it; its type is that of the
      computation.
    samples: [batch] int32, those that are no padding; None where all are.
    remat: compute activations again in the backward pass.
    shares: [layers + 1], of a sum over layers; None for the last alone.

  Returns:
    what the classifier reads.
  """
  x, means = waveform[:, :, None], {}
  for i, stride in enumerate(config.strides):
    name = f'conv_{i}'
    block = params[name]

    def convolve(block, x, stride=stride, first=i == 0):
      x = convolution.valid(x, block['kernel'], stride)
      if 'bias' in block:
        x = layers.shift(x, block['bias'])
      if 'norm' in block:
        axis = -1 if config.norm_each else 1
        x = layers.norm(block['norm'], x, _CONV_EPSILON, axis)
      return gelu(x)

    x = (jax.checkpoint(convolve) if remat else convolve)(block, x)
    means[name] = x.mean(1)
  lengths = None if samples is None else config.frames(samples)
  if config.project_norm:
    x = layers.norm(params['projection']['norm'], x, config.stack.epsilon)
  x = layers.linear(params['projection'], x)
  means['projection'] = layers.masked_mean(x, lengths)
  if lengths is not None:
    x = jnp.where(layers.within(lengths, x.shape[1])[:, :, None], x, 0)
  x = x + _positions(config, params['positions'], x)
  means['positions'] = layers.masked_mean(x, lengths)

  def normalise(x):
    x = layers.norm(params['norm'], x, config.stack.epsilon)
    means['norm'] = layers.masked_mean(x, lengths)
    return x

  if not config.stack.pre_norm:
    x = normalise(x)
  x, by_layer, total = layers.run(
    config.stack, params['layers'], x, lengths, remat=remat, shares=shares
  )
  means |= {f'layers[{i}]': mean for i, mean in enumerate(by_layer)}
  if shares is not None:  # The sum has the last layer before its norm.
    total = total + shares[-1].astype(x.dtype) * x
  if config.stack.pre_norm:
    x = normalise(x)
  return layers.Encoded(x if shares is None else total, lengths, means)


def _positions(config, params, x):
  """Returns what tells positions: a wide convolution over frames, in groups.

  Its kernel has a norm of its own for each tap, as a parameter.
  """
  direction = params['direction']
  length = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
  kernel = direction * (params['gain'] / length)
  y = convolution.grouped_same(x, kernel, config.position_groups)
  return gelu(layers.shift(y, params['bias']))
