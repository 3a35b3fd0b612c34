"""The embedded corpus through the registry."""

import numpy as np

from unlearn_jax.datasets import espeak_commands
from unlearn_jax.datasets import espeak_synthesis
from unlearn_jax.datasets import registry


def test_tiny_corpus_is_what_is_synthesised(tmp_path):
  corpus = registry.load(
    'espeak_commands/tiny', cache_dir=tmp_path, progress=False
  )
  config = espeak_commands.CONFIGS['tiny']
  spoken = list(espeak_synthesis.synthesise(config))
  assert len(corpus) == len(spoken) == 100
  assert corpus.utterance_id.tolist() == [row[0] for row in spoken]
  assert [corpus.keywords[i] for i in corpus.keyword] == [r[1] for r in spoken]
  assert [corpus.speakers[i] for i in corpus.speaker] == [r[2] for r in spoken]
  audio = corpus.read_audio(np.arange(100))
  np.testing.assert_array_equal(audio, np.stack([row[3] for row in spoken]))
  assert corpus.official_split is None


def test_configurations_of_other_sizes_have_other_folders(monkeypatch):
  keys = [espeak_commands.EspeakCommands(c).key() for c in ('tiny', 'default')]
  assert keys[0] != keys[1]
  monkeypatch.setitem(
    espeak_commands.CONFIGS,
    'tiny',
    espeak_synthesis.EspeakConfig(keywords=('yes',), num_speakers=5, takes=5),
  )
  assert espeak_commands.EspeakCommands('tiny').key() not in keys


def test_default_corpus_has_the_ten_words():
  source = espeak_commands.EspeakCommands()
  count, _ = source.recordings(download=None)
  assert count == 10 * source.key()['num_speakers'] * source.key()['takes']
