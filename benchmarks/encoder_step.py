r"""Times a training step of a pretrained encoder beside `transformers`.

  python benchmarks/encoder_step.py --size=medium --batch=8 --seconds=1
  python benchmarks/encoder_step.py --size=facebook/hubert-base-ls960 \
    --batch=32 --seconds=1,5 --dtype=bfloat16      # On a GPU.
  python benchmarks/encoder_step.py --memory       # Compiles, no weights.

A step is forward, backward and AdamW on noise; weights are fresh. Both compute
in the type that is named, with float32 parameters: PyTorch by autocast, with
its fused attention. Ours runs inside a scan over the steps, as training does.
That the two networks are the same is checked on the logits first. Repeats
alternate between the two; times are medians, compile time is apart. The rate is
that of the matrix products of a step, beside that of one large product.

With --memory: what the compiled step of LoRA SCRUB on HuBERT X-Large needs,
batch 8 of 5 seconds, by the compiler's own account.
"""

import functools
import time
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing

from unlearn_jax.methods import registry
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models.pretrained import build
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.sizes import SIZES
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

_MEDIUM = {
  'model_type': 'hubert',
  'hidden_size': 128,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'intermediate_size': 512,
  'conv_dim': [64] * 7,
  'num_conv_pos_embeddings': 64,
  'num_conv_pos_embedding_groups': 8,
}
_XLARGE = 'facebook/hubert-xlarge-ll60k'
_RATE, _CLASSES, _HZ = 1e-5, 12, 16_000

_SIZE = flags.DEFINE_enum('size', 'medium', ['medium', *SIZES], 'The network.')
_BATCH = flags.DEFINE_integer('batch', 8, 'Clips a step.', 1)
_SECONDS = flags.DEFINE_list('seconds', ['1'], 'Lengths of the clips.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Type.')
_STEPS = flags.DEFINE_integer('steps', 4, 'Steps of one measurement.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repeats of each candidate.', 1)
_REMAT = flags.DEFINE_bool('remat', False, 'Activations again backwards.')
_MEMORY = flags.DEFINE_bool('memory', False, 'Memory of LoRA SCRUB, no times.')


def config_of(size: str) -> dict[str, Any]:
  names = {str(i): f'c{i}' for i in range(_CLASSES)}
  return {**SIZES.get(size, _MEDIUM), 'id2label': names}


def predict_fn_of(network: Network, dtype: str, remat: bool):
  def predict_fn(params, batch):
    made = network.apply(
      params, batch['waveform'], dtype=jnp.dtype(dtype), remat=remat
    )
    return made.logits

  return predict_fn


def matrix_flops(network: Network, batch: int, samples: int) -> float:
  """Returns what the matrix products of a training step take, 2 a product."""
  encoder, forward, inputs = network.encoder, 0, 1
  for width, stride, channels in zip(
    encoder.widths, encoder.strides, encoder.channels, strict=True
  ):
    samples = (samples - width) // stride + 1
    forward += samples * width * inputs * channels
    inputs = channels
  stack = encoder.stack
  in_group = stack.width // encoder.position_groups
  forward += (
    samples * stack.width * (inputs + encoder.position_width * in_group)
  )
  of_layer = stack.width * (4 * stack.width + 2 * stack.inner)
  of_layer += 2 * samples * stack.width  # Attention.
  forward += stack.layers * samples * of_layer
  return 3 * 2.0 * batch * forward


def product_rate(dtype: str) -> float:
  """Returns the operations a second of a large product."""
  n = 8_192 if jax.default_backend() != 'cpu' else 1_024
  x = jnp.ones((n, n), dtype)

  @jax.jit
  def products(x):
    return jax.lax.fori_loop(0, 10, lambda _, y: (y @ x) / n, x)

  jax.block_until_ready(products(x))
  start = time.perf_counter()
  jax.block_until_ready(products(x))
  return 10 * 2.0 * n**3 / (time.perf_counter() - start)


def ours(network, params, waveforms, labels):
  loss_fn = cross_entropy(predict_fn_of(network, _DTYPE.value, _REMAT.value))
  tx = optax.adamw(_RATE)

  def step(state, batch):
    params, optimizer = state
    gradient = jax.grad(lambda p: loss_fn(p, batch).mean())(params)
    updates, optimizer = tx.update(gradient, optimizer, params)
    return (optax.apply_updates(params, updates), optimizer), None

  @functools.partial(jax.jit, donate_argnums=0)
  def steps(state, batches):
    return jax.lax.scan(step, state, batches)[0]

  batches = {'waveform': jnp.asarray(waveforms), 'label': jnp.asarray(labels)}
  state = jax.tree.map(jnp.asarray, (params, tx.init(params)))
  start = time.perf_counter()
  compiled = steps.lower(state, batches).compile()
  compile_s = time.perf_counter() - start

  def candidate():
    nonlocal state
    state = jax.block_until_ready(compiled(state, batches))

  return candidate, compile_s


def theirs(network, params, config, waveforms, labels):
  import torch
  import transformers

  known = {k: v for k, v in config.items() if k != 'model_type'}
  still = {
    name: 0.0
    for name in (
      *('activation_dropout', 'attention_dropout', 'feat_proj_dropout'),
      *('final_dropout', 'hidden_dropout', 'layerdrop', 'mask_feature_prob'),
    )
  }
  kinds = {
    'hubert': (
      transformers.HubertConfig,
      transformers.HubertForSequenceClassification,
    ),
    'wav2vec2': (
      transformers.Wav2Vec2Config,
      transformers.Wav2Vec2ForSequenceClassification,
    ),
  }
  make_config, make = kinds[network.kind]
  settings = make_config(
    **known, **still, apply_spec_augment=False, attn_implementation='sdpa'
  )
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = make(settings)
  state = tensors_lib.from_params(network.tensors(), params)
  model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
  model = model.to(device).train()
  optimizer = torch.optim.AdamW(model.parameters(), _RATE, fused=True)
  half = _DTYPE.value == 'bfloat16'
  batches = [
    (torch.tensor(x, device=device), torch.tensor(y, device=device).long())
    for x, y in zip(waveforms, labels, strict=True)
  ]

  def logits(x):
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
      return model(torch.tensor(x, device=device)).logits.float().cpu().numpy()

  def candidate():
    for x, y in batches:
      optimizer.zero_grad()
      with torch.autocast(device, torch.bfloat16, enabled=half):
        loss = model(x, labels=y).loss
      loss.backward()
      optimizer.step()
    if device == 'cuda':
      torch.cuda.synchronize()

  return candidate, logits


def compare(seconds: float) -> None:
  """Prints how far the two networks differ, a table, and the rate."""
  config = config_of(_SIZE.value)
  network = Network.read(_SIZE.value, config)
  params = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  shape = _STEPS.value, _BATCH.value, round(seconds * _HZ)
  waveforms = rng.standard_normal(shape).astype(np.float32)
  labels = rng.integers(0, _CLASSES, shape[:2]).astype(np.int32)
  candidate, logits = theirs(network, params, config, waveforms, labels)
  predict_fn = jax.jit(predict_fn_of(network, _DTYPE.value, False))
  said, want = (
    np.asarray(predict_fn(params, {'waveform': waveforms[0]})),
    logits(waveforms[0]),
  )
  size = sum(x.size for x in jax.tree.leaves(params))
  print(
    f'{_SIZE.value}: {size} parameters, batch {shape[1]} of {seconds:g} s, '
    f'{_DTYPE.value}, {jax.devices()[0].device_kind}; logits differ by '
    f'{np.abs(said - want).max() / np.abs(want).max():.0e}'
  )
  mine, compile_s = ours(network, params, waveforms, labels)
  times = {
    name: [t / _STEPS.value for t in measured]
    for name, measured in timing.measure(
      {'transformers': candidate, 'unlearn_jax': mine}, _REPEATS.value
    ).items()
  }
  timing.print_table(times, 'transformers', {'unlearn_jax': compile_s})
  rate = matrix_flops(network, shape[1], shape[2])
  rate /= float(np.median(times['unlearn_jax']))
  best = product_rate(_DTYPE.value)
  print(
    f'matrix products of a step: {rate / 1e12:.3g} Tflop/s, '
    f'{100 * rate / best:.0f} % of {best / 1e12:.3g} of one large product'
  )


def memory() -> None:
  """Prints what a step of LoRA SCRUB needs."""
  network = Network.read(_XLARGE, config_of(_XLARGE))
  predict_fn = predict_fn_of(network, 'bfloat16', True)
  row = registry.spec('lora:scrub')
  preset = row.preset
  problem = Problem(
    cross_entropy(predict_fn),
    predict_fn,
    network.init,
    input_name='waveform',
    blocks=network.blocks,
    stacks=build.STACKS,
    is_linear=build.is_linear,
  )
  options = {**preset.options, 'kernels': 'layers/'}
  method = row.build(problem, preset.optimizer(), **options)

  def batches(steps=1, size=8):
    return {
      'waveform': jax.ShapeDtypeStruct((steps, size, 5 * _HZ), jnp.int16),
      'label': jax.ShapeDtypeStruct((steps, size), jnp.int32),
      'mask': jax.ShapeDtypeStruct((steps, size), jnp.float32),
    }

  params = jax.eval_shape(network.init, jax.random.key(0))
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(functools.partial(loop.init, method), params, key)
  start = time.perf_counter()
  compiled = loop.run.lower(method, state, batches(), batches()).compile()
  stats = compiled.memory_analysis()
  whole = stats.argument_size_in_bytes + stats.output_size_in_bytes
  whole += stats.temp_size_in_bytes - stats.alias_size_in_bytes
  size = sum(x.size for x in jax.tree.leaves(params))
  print(
    f'lora:scrub on {_XLARGE}, {size} parameters, batch 8 of 5 s, bfloat16 '
    f'with rematerialisation, {jax.devices()[0].device_kind}:\n'
    f'{whole / 2**30:.1f} GiB, of which {stats.temp_size_in_bytes / 2**30:.1f} '
    f'scratch; compiled in {time.perf_counter() - start:.0f} s'
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  if _MEMORY.value:
    memory()
    return
  for seconds in _SECONDS.value:
    compare(float(seconds))


if __name__ == '__main__':
  app.run(main)
