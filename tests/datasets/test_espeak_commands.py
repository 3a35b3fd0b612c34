"""The embedded corpus through the registry."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearn_jax.datasets import espeak_commands
from unlearn_jax.datasets import espeak_synthesis
from unlearn_jax.datasets import registry
from unlearn_jax.features.log_mel import log_mel
from unlearn_jax.features.log_mel import LogMelConfig


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
  assert corpus.sessions == ('00', '01', '02', '03', '04')
  takes = [corpus.sessions[i] for i in corpus.session]
  assert takes == [row[0][-2:] for row in spoken]


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


def test_there_are_a_hundred_speakers_of_several_sessions():
  espeak = espeak_commands.CONFIGS['speakers']
  made = {
    espeak_synthesis._speaker(espeak.seed, i)
    for i in range(espeak.num_speakers)
  }
  assert len(made) >= 100  # No two are made alike.
  assert espeak.takes >= 5


def test_speakers_can_be_told_apart_in_other_takes():
  """By the long-term spectrum alone, far above one in twenty."""
  espeak = espeak_commands.CONFIGS['speakers']
  keywords, speakers, takes = ('yes', 'no'), 20, 5
  audio = np.stack(
    [
      espeak_synthesis.synthesise_utterance(espeak, keyword, speaker, take)
      for keyword in keywords
      for speaker in range(speakers)
      for take in range(takes)
    ]
  )
  frames = np.array(log_mel(audio, LogMelConfig()))
  by_energy = np.argsort(-frames.mean(axis=-1), axis=1)[:, :30, None]
  loudest = np.take_along_axis(frames, by_energy, axis=1)  # Speech, not noise.
  spectrum = np.concatenate([loudest.mean(axis=1), loudest.std(axis=1)], axis=1)
  _, speaker, take = np.indices((len(keywords), speakers, takes)).reshape(3, -1)
  is_test = take == takes - 1
  model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
  model.fit(spectrum[~is_test], speaker[~is_test])
  accuracy = model.score(spectrum[is_test], speaker[is_test])
  print('ACC', accuracy)
  assert accuracy > 0.7  # Chance is 0.05.
