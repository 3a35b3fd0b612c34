"""Encoders and their heads against `transformers`, both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pretrained_folders
import pytest
import safetensors.numpy
import torch
import transformers

from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.sizes import SIZES

CLASSES = {
  'hubert': transformers.HubertForSequenceClassification,
  'wav2vec2': transformers.Wav2Vec2ForSequenceClassification,
  'whisper': transformers.WhisperForAudioClassification,
}
CONFIGS = {
  'hubert': transformers.HubertConfig,
  'wav2vec2': transformers.Wav2Vec2Config,
  'whisper': transformers.WhisperConfig,
}
SAMPLES, LENGTHS, LABELS = 4_000, (4_000, 2_500, 3_999), (1, 3, 4)
# Whisper's decoder, which no classifier has, must be described all the same.
DECODER = {
  'vocab_size': 60,
  'pad_token_id': 0,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'decoder_start_token_id': 1,
}


def reference(path, attention='eager'):
  """Opens a folder as `transformers` does."""
  return (
    transformers.AutoModelForAudioClassification.from_pretrained(
      path, attn_implementation=attention
    )
    .float()
    .eval()
  )


def batch(kind, masked):
  """Returns the inputs of both sides."""
  rng = np.random.default_rng(0)
  if kind == 'whisper':
    x = rng.standard_normal((len(LABELS), 100, 80)).astype(np.float32)
    theirs = {'input_features': torch.tensor(x.transpose(0, 2, 1))}
    return theirs, (jnp.asarray(x), None)
  inside = np.arange(SAMPLES) < np.array(LENGTHS)[:, None]
  x = rng.standard_normal((len(LABELS), SAMPLES)).astype(np.float32) * inside
  theirs = {'input_values': torch.tensor(x)}
  if not masked:
    return theirs, (jnp.asarray(x), None)
  theirs['attention_mask'] = torch.tensor(inside.astype(np.int64))
  return theirs, (jnp.asarray(x), jnp.asarray(LENGTHS, jnp.int32))


def cases():
  for name, config in pretrained_folders.CONFIGS.items():
    masks = (False,) if config['model_type'] == 'whisper' else (False, True)
    yield from ((name, masked) for masked in masks)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Makes each folder once."""
  made = {}

  def get(name):
    if name not in made:
      path = tmp_path_factory.mktemp('folders') / name
      pretrained_folders.make(path, name)
      if name.startswith('whisper'):
        pretrained_folders.edit(path, **DECODER)
      made[name] = path, reference(path)
    return made[name]

  return get


@pytest.mark.parametrize(('name', 'masked'), [*cases()])
def test_numbers_and_gradients(folders, name, masked):
  path, model = folders(name)
  pretrained = folder.read(str(path))
  network = pretrained.network
  theirs, ours = batch(network.kind, masked)
  model.zero_grad()
  said = model(**theirs, labels=torch.tensor(LABELS), output_hidden_states=True)
  said.loss.backward()

  def loss_fn(params):
    made = network.apply(params, *ours)
    losses = -jax.nn.log_softmax(made.logits)
    return losses[np.arange(len(LABELS)), np.array(LABELS)].mean(), made

  gradient, made = jax.jit(jax.grad(loss_fn, has_aux=True))(pretrained.params)
  close(made.logits, said.logits, 1e-4)
  # What went into and came out of each layer, where it was heard.
  for i, hidden in enumerate(said.hidden_states[1:]):
    if i + 1 == network.encoder.stack.layers and network.kind == 'whisper':
      continue  # `transformers` has the norm's output there.
    heard = masked_mean(hidden, made.encoded.lengths)
    close(made.encoded.means[f'layers[{i}]'], heard, 1e-4)
  gradients = tensors_lib.from_params(network.tensors(), gradient)
  largest = max(p.grad.norm() for p in model.parameters() if p.grad is not None)
  for key, parameter in model.named_parameters():
    theirs = parameter.grad
    # A fresh Whisper does not train its sinusoids; an opened one would.
    if theirs is None or key.endswith('embed_positions.weight'):
      assert not gradients[key].any(), key
      continue
    # The bias of a key moves no softmax: its gradient is nothing but rounding.
    scale = max(theirs.norm(), 1e-4 * largest)
    off = np.linalg.norm(gradients[key] - theirs.numpy())
    assert off <= 1e-3 * scale, (key, off, scale)


def masked_mean(hidden, lengths):
  hidden = hidden.detach().numpy()
  if lengths is None:
    return torch.tensor(hidden.mean(1))
  kept = [h[:n].mean(0) for h, n in zip(hidden, lengths, strict=True)]
  return torch.tensor(np.stack(kept))


def close(ours, theirs, tolerance):
  theirs = theirs.detach().numpy()
  off = np.abs(np.asarray(ours) - theirs).max()
  assert off <= tolerance * np.abs(theirs).max(), off


@pytest.mark.parametrize('name', pretrained_folders.CONFIGS)
def test_round_trip_bit_for_bit(folders, tmp_path, name):
  _, model = folders(name)
  model.save_pretrained(tmp_path / 'theirs')
  read = folder.read(str(tmp_path / 'theirs'))
  assert read.has_head
  folder.write(tmp_path / 'ours', read, read.params)
  theirs, ours = (
    safetensors.numpy.load_file(tmp_path / side / 'model.safetensors')
    for side in ('theirs', 'ours')
  )
  assert ours.keys() == theirs.keys()
  for key, array in theirs.items():
    assert array.tobytes() == ours[key].tobytes(), key
  inputs, arguments = batch(read.network.kind, False)
  said = reference(tmp_path / 'ours')(**inputs).logits
  close(read.network.apply(read.params, *arguments).logits, said, 1e-5)


@pytest.mark.parametrize('name', [n for n in SIZES if '/' in n])
def test_published_sizes(name):
  size = {**SIZES[name], 'num_labels': 12}
  config = CONFIGS[size['model_type']](**size)
  with torch.device('meta'):
    model = CLASSES[size['model_type']](config)
  theirs = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  ours = Network.read(name, config.to_dict()).tensors()
  assert dict(tensors_lib.shapes(ours)) == theirs
  assert sum(np.prod(t.leaf_shape) for t in ours) == model.num_parameters()


@pytest.mark.parametrize('shards', [False, True])
def test_pickled_weights(folders, tmp_path, shards):
  path, model = folders('hubert_large')
  state = model.state_dict()
  (tmp_path / 'config.json').write_text((path / 'config.json').read_text())
  if shards:
    names = sorted(state)
    files = {n: f'pytorch_model-{i % 2}.bin' for i, n in enumerate(names)}
    for file in set(files.values()):
      part = {n: state[n] for n in names if files[n] == file}
      torch.save(part, tmp_path / file)
    text = json.dumps({'weight_map': files})
    (tmp_path / 'pytorch_model.bin.index.json').write_text(text)
  else:
    # Some save parameters, of other types, and views of one storage.
    name = 'classifier.bias'
    state[name] = torch.nn.Parameter(torch.cat([state[name]] * 2)[5:].double())
    torch.save(state, tmp_path / 'pytorch_model.bin')
  ours, theirs = (folder.read(str(p)).params for p in (tmp_path, path))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pickles_of_old_pytorch_are_refused(folders, tmp_path):
  path, model = folders('hubert_base')
  (tmp_path / 'config.json').write_text((path / 'config.json').read_text())
  torch.save(
    model.state_dict(),
    tmp_path / 'pytorch_model.bin',
    _use_new_zipfile_serialization=False,
  )
  with pytest.raises(folder.InputError, match='PyTorch 1.6'):
    folder.read(str(tmp_path))


@pytest.mark.parametrize(
  ('cls', 'name', 'prefix'),
  [
    (transformers.HubertModel, 'hubert_base', ''),
    (transformers.Wav2Vec2ForPreTraining, 'wav2vec2_large', 'wav2vec2.'),
    (transformers.WhisperForConditionalGeneration, 'whisper', 'model.'),
  ],
)
def test_encoders_of_other_tasks(tmp_path, cls, name, prefix):
  """Their heads are left out, ours is fresh."""
  config = pretrained_folders.CONFIGS[name]
  more = {**DECODER, 'decoder_layers': 1, 'decoder_attention_heads': 2}
  if name != 'whisper':
    more = {'codevector_dim': 8, 'proj_codevector_dim': 8}
  model = cls(CONFIGS[config['model_type']](**config, **more))
  model.save_pretrained(tmp_path)
  read = folder.read(str(tmp_path), class_names=('yes', 'no', 'stop'))
  assert not read.has_head
  assert read.network.class_names == ('yes', 'no', 'stop')
  assert read.params['classifier']['kernel'].shape == (12, 3)
  state = model.state_dict()
  ours = tensors_lib.from_params(read.network.tensors(), read.params)
  key = read.network.encoder.tensors()[0].name
  bare = key.removeprefix('hubert.').removeprefix('wav2vec2.')
  np.testing.assert_array_equal(ours[key], state[prefix + bare].numpy())
