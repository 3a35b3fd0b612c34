"""Folders in Hugging Face format: reading, writing, and what is refused."""

import io
import json
import pickle
import zipfile

import jax
import numpy as np
import pretrained_folders
import pytest
import safetensors.numpy

from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained import tensors as tensors_lib
from unlearn_jax.types import InputError


@pytest.fixture
def made(tmp_path):
  path = tmp_path / 'model'
  return path, pretrained_folders.make(path, 'hubert_base')


def weights(path):
  return safetensors.numpy.load_file(path / 'model.safetensors')


def save(path, arrays):
  safetensors.numpy.save_file(arrays, path / 'model.safetensors')


@pytest.mark.parametrize('name', pretrained_folders.CONFIGS)
def test_what_was_written_is_read(tmp_path, name):
  made = pretrained_folders.make(tmp_path / 'a', name)
  read = folder.read(str(tmp_path / 'a'))
  jax.tree.map(np.testing.assert_array_equal, read.params, made.params)
  assert read.network == made.network
  folder.write(tmp_path / 'b', read, read.params)
  for file in ('config.json', 'model.safetensors'):
    assert (tmp_path / 'a' / file).read_bytes() == (
      tmp_path / 'b' / file
    ).read_bytes()


def test_the_front_end_goes_along(made, tmp_path):
  path, _ = made
  (path / 'preprocessor_config.json').write_text('{"do_normalize": false}')
  read = folder.read(str(path))
  folder.write(tmp_path / 'b', read, read.params)
  assert folder.read(str(tmp_path / 'b')).preprocessor == {
    'do_normalize': False
  }


def test_shards(made):
  path, pretrained = made
  arrays = weights(path)
  (path / 'model.safetensors').unlink()
  files = {n: f'model-{len(n) % 2}.safetensors' for n in arrays}
  for file in set(files.values()):
    part = {n: a for n, a in arrays.items() if files[n] == file}
    safetensors.numpy.save_file(part, path / file)
  index = path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': files}))
  read = folder.read(str(path))
  jax.tree.map(np.testing.assert_array_equal, read.params, pretrained.params)
  (path / 'model-1.safetensors').unlink()
  with pytest.raises(InputError, match=r'model-1.safetensors: is missing'):
    folder.read(str(path))
  index.write_text('{}')
  with pytest.raises(InputError, match='weight_map'):
    folder.read(str(path))


def test_weight_norm_by_its_old_names(made):
  path, pretrained = made
  old = {
    n.replace('parametrizations.weight.original0', 'weight_g').replace(
      'parametrizations.weight.original1', 'weight_v'
    ): a
    for n, a in weights(path).items()
  }
  assert old.keys() != weights(path).keys()
  save(path, old)
  read = folder.read(str(path))
  jax.tree.map(np.testing.assert_array_equal, read.params, pretrained.params)


def test_half_precision_is_widened(made):
  path, _ = made
  save(path, {n: a.astype(np.float16) for n, a in weights(path).items()})
  leaves = jax.tree.leaves(folder.read(str(path)).params)
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_an_encoder_alone_gets_a_head(made):
  path, _ = made
  bare = {
    n.removeprefix('hubert.'): a
    for n, a in weights(path).items()
    if not n.startswith(('projector', 'classifier'))
  }
  save(path, bare)
  names = ('a', 'b', 'c')
  one, two, other = (
    folder.read(str(path), class_names=names, seed=seed) for seed in (0, 0, 1)
  )
  assert not one.has_head
  assert one.network.class_names == names
  kernels = [p.params['classifier']['kernel'] for p in (one, two, other)]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert kernels[0].shape == (12, 3)
  assert (kernels[0] != kernels[2]).all()


def test_an_existing_folder_stays(made):
  path, pretrained = made
  before = weights(path)
  changed = jax.tree.map(lambda x: x + 1, pretrained.params)
  with pytest.raises(InputError, match='exists; give --overwrite'):
    folder.write(path, pretrained, changed)
  jax.tree.map(np.testing.assert_array_equal, weights(path), before)
  folder.write(path, pretrained, changed, overwrite=True)
  jax.tree.map(
    np.testing.assert_array_equal, folder.read(str(path)).params, changed
  )
  assert [p.name for p in path.parent.iterdir()] == ['model']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model_type': 'wavlm'}, "model_type 'wavlm' must be one of wav2vec2, hu"),
    ({'model_type': None}, 'model_type None must be one of'),
    ({'hidden_act': 'relu'}, "hidden_act must be 'gelu', got 'relu'"),
    ({'conv_pos_batch_norm': True}, 'conv_pos_batch_norm must be False'),
    ({'hidden_size': 'wide'}, "hidden_size must be a whole number, .* 'wide'"),
    ({'num_attention_heads': 3}, 'num_attention_heads must be a divisor of'),
    ({'conv_stride': [5, 4]}, 'conv_stride must be as long as conv_dim'),
    ({'feat_extract_norm': 'batch'}, "feat_extract_norm must be 'group' or"),
    ({'mask_time_prob': None, 'mask_feature_prob': 'x'}, r'in \[0, 1\], got'),
    ({'layer_norm_eps': 0}, 'layer_norm_eps must be a number above 0, got 0'),
    ({'id2label': {'1': 'a'}}, 'id2label must be a name for each number'),
    ({'hidden_size': 20}, r'must have shape \(20, 8\) .* got \(16, 8\)'),
    ({'num_hidden_layers': 3}, 'misses tensors: .*layers.2.* and 6 more'),
    ({'num_hidden_layers': 1}, 'has unexpected tensors: .*layers.1.* and 6'),
  ],
)
def test_configs_that_are_refused(made, changes, message):
  path, _ = made
  pretrained_folders.edit(path, **changes)
  with pytest.raises(InputError, match=message) as caught:
    folder.read(str(path))
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_classes_in_another_order(made):
  path, pretrained = made
  order = [3, 0, 4, 1, 2]
  names = tuple(pretrained.network.class_names[i] for i in order)
  read = folder.read(str(path), class_names=names)
  assert read.network.class_names == names
  for leaf in ('kernel', 'bias'):
    np.testing.assert_array_equal(
      read.params['classifier'][leaf],
      pretrained.params['classifier'][leaf][..., order],
    )
  # Names that are none of ours say nothing of an order.
  other = folder.read(str(path), class_names=('a', 'b', 'c', 'd', 'e'))
  assert other.network == pretrained.network
  jax.tree.map(np.testing.assert_array_equal, other.params, pretrained.params)


def test_another_number_of_classes(made):
  path, _ = made
  with pytest.raises(InputError, match='has 5 classes, the corpus has 3'):
    folder.read(str(path), class_names=('a', 'b', 'c'))


def test_folders_that_are_none(made, tmp_path):
  path, _ = made
  with pytest.raises(InputError, match='must be a folder with a config.json'):
    folder.read(str(tmp_path / 'nothing'))
  with pytest.raises(InputError, match='must be a folder with a config.json'):
    folder.read(str(path / 'config.json'))
  (path / 'model.safetensors').write_bytes(b'12345678not JSON')
  with pytest.raises(InputError, match='model.safetensors: is damaged'):
    folder.read(str(path))
  (path / 'model.safetensors').unlink()
  with pytest.raises(InputError, match='must hold weights, model.safetensors'):
    folder.read(str(path))
  (path / 'config.json').write_text('{')
  with pytest.raises(InputError, match='config.json: must be JSON'):
    folder.read(str(path))
  (path / 'config.json').unlink()
  with pytest.raises(InputError, match='config.json: is missing'):
    folder.read(str(path))


class Evil:
  """What a pickle may do when it is opened."""

  def __reduce__(self):
    import os

    return os.mkdir, ('it-ran',)


def pickled(path, content):
  with zipfile.ZipFile(path / 'pytorch_model.bin', 'w') as archive:
    archive.writestr('archive/data.pkl', content)


def test_pickles_run_no_code(made, monkeypatch, tmp_path):
  path, _ = made
  monkeypatch.chdir(tmp_path)
  (path / 'model.safetensors').unlink()
  content = pickle.dumps({'classifier.weight': Evil()})
  pickle.loads(content)  # It would.
  (tmp_path / 'it-ran').rmdir()
  pickled(path, content)
  with pytest.raises(InputError, match=r'would run (posix|nt).mkdir'):
    folder.read(str(path))
  assert not (tmp_path / 'it-ran').exists()


def tensor_call(shape, strides, numbers):
  """Returns a pickle of one tensor whose storage holds `numbers`."""
  out = io.BytesIO()
  out.write(b'\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(')
  out.write(
    b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000'
  )
  out.write(b'X\x03\x00\x00\x00cpuK%ctQK\x00' % numbers)
  for values in (shape, strides):
    out.write(b'(' + b''.join(b'K%c' % v for v in values) + b't')
  out.write(b'\x89NtRs.')
  return out.getvalue()


def test_tensors_of_pickles(tmp_path):
  from unlearn_jax.models.pretrained import torch_file

  numbers = np.arange(6, dtype=np.float32)
  file = tmp_path / 'pytorch_model.bin'

  def read(shape, strides):
    with zipfile.ZipFile(file, 'w') as archive:
      archive.writestr('a/data.pkl', tensor_call(shape, strides, 6))
      archive.writestr('a/data/0', numbers.tobytes())
    return torch_file.read(file)['a']

  np.testing.assert_array_equal(read((2, 3), (3, 1)), numbers.reshape(2, 3))
  np.testing.assert_array_equal(read((3, 2), (1, 3)), numbers.reshape(2, 3).T)
  with pytest.raises(InputError, match='larger than its storage'):
    read((2, 4), (3, 1))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (pickle.dumps([1]), 'must map names to tensors'),
    (pickle.dumps({'a': 1}), 'must map names to tensors'),
    (b'\x80\x02garbage', 'is damaged'),
    (b'', 'is damaged'),
  ],
)
def test_damaged_pickles(made, content, message):
  path, _ = made
  (path / 'model.safetensors').unlink()
  pickled(path, content)
  with pytest.raises(InputError, match=message):
    folder.read(str(path))


def test_names_of_layers_are_those_of_blocks():
  network = pretrained_folders.network('wav2vec2_large_superb')
  roots = {t.path[0] for t in network.tensors()} - {'masked_frame', 'layers'}
  blocks = {b for b in network.blocks if not b.startswith('layers[')}
  assert blocks == roots
  assert len(network.blocks) == len(roots) + network.encoder.stack.layers
  assert set(tensors_lib.shapes(network.tensors())) == set(
    tensors_lib.from_params(network.tensors(), network.init(jax.random.key(0)))
  )
