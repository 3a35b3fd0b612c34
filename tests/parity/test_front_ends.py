"""From recordings to logits against `transformers`' feature extractors."""

import json

import jax
import numpy as np
import pretrained_folders
import pytest
import torch
import transformers

from unlearn_jax.features.whisper_log_mel import whisper_log_mel
from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained.build import build

LENGTHS = 4_000, 2_500, 3_999


def recordings():
  rng = np.random.default_rng(0)
  return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in LENGTHS]


def batch():
  waveform = np.zeros((len(LENGTHS), max(LENGTHS)), np.float32)
  for row, recording in zip(waveform, recordings(), strict=True):
    row[: len(recording)] = recording
  return {'waveform': waveform, 'samples': np.array(LENGTHS, np.int32)}


@pytest.mark.parametrize('normalise', [False, True])
@pytest.mark.parametrize('masks', [False, True])
def test_waveforms(tmp_path, normalise, masks):
  pretrained_folders.make(tmp_path / 'a', 'hubert_large')
  extractor = transformers.Wav2Vec2FeatureExtractor(
    do_normalize=normalise, return_attention_mask=masks
  )
  extractor.save_pretrained(tmp_path / 'a')
  extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / 'a')
  heard = extractor(
    recordings(), sampling_rate=16_000, padding=True, return_tensors='pt'
  )
  assert ('attention_mask' in heard) == masks
  compare(tmp_path / 'a', heard)


def test_whisper(tmp_path):
  pretrained_folders.make(tmp_path / 'a', 'whisper')
  pretrained_folders.edit(
    tmp_path / 'a', pad_token_id=0, vocab_size=60, eos_token_id=2
  )
  extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
  extractor.save_pretrained(tmp_path / 'a')
  heard = extractor(recordings(), sampling_rate=16_000, return_tensors='pt')
  compare(tmp_path / 'a', heard)


def compare(path, heard):
  model = transformers.AutoModelForAudioClassification.from_pretrained(path)
  with torch.no_grad():
    want = model.eval()(**heard).logits.numpy()
  read = folder.read(str(path))
  got = jax.jit(build(read).predict_fn)(read.params, batch())
  assert np.abs(np.asarray(got) - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize('samples', [16_000, 479_000, 480_000])
def test_log_mels_of_whisper(samples):
  rng = np.random.default_rng(0)
  waveform = (0.1 * rng.standard_normal(samples)).astype(np.float32)
  waveform[samples // 2 :] *= 1e-3
  extractor = transformers.WhisperFeatureExtractor()
  want = extractor(waveform, sampling_rate=16_000)['input_features'][0].T
  got = jax.jit(whisper_log_mel)(waveform[None])[0]
  np.testing.assert_allclose(got, want, atol=1e-3)
  assert np.abs(got - want).mean() < 1e-5


def test_settings_that_are_written(tmp_path):
  pretrained_folders.make(tmp_path / 'a', 'hubert_base')
  extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
  extractor.save_pretrained(tmp_path / 'a')
  read = folder.read(str(tmp_path / 'a'))
  folder.write(tmp_path / 'b', read, read.params)
  opened = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / 'b')
  assert json.loads(opened.to_json_string()) == json.loads(
    extractor.to_json_string()
  )
