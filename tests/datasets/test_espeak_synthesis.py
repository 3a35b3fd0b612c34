"""The synthetic corpus: the same everywhere, whole words, noise as asked."""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
import scipy.signal

from unlearn_jax.datasets import espeak_ng
from unlearn_jax.datasets import espeak_synthesis
from unlearn_jax.datasets import integer_audio
from unlearn_jax.datasets.espeak_synthesis import EspeakConfig
from unlearn_jax.types import InputError

espeakng_loader = pytest.importorskip('espeakng_loader')

TINY = EspeakConfig(
  keywords=('yes', 'stop', 'seven'), num_speakers=4, takes=2, seed=3
)
# Of TINY, with espeakng-loader 0.2.4 on Linux x86-64.
TINY_SHA256 = '541f2fff4e1fe371056e57c680e80adf869e67bdf237f62201ce3247fc25c06e'

# Prints the hash of TINY, spoken in sorted order or after other speech and
# backwards.
HASH_PROGRAM = """
import hashlib, sys
from unlearn_jax.datasets import espeak_ng, espeak_synthesis
config = espeak_synthesis.EspeakConfig(
  keywords=('yes', 'stop', 'seven'), num_speakers=4, takes=2, seed=3)
jobs = [(k, s, t) for k in sorted(config.keywords)
        for s in range(4) for t in range(2)]
backwards = sys.argv[1] == 'backwards'
if backwards:
  espeak_ng.synthesise_speech('other speech', 'gmw/en+f3', rate_wpm=300)
audio = {job: espeak_synthesis.synthesise_utterance(config, *job)
         for job in (reversed(jobs) if backwards else jobs)}
sound = b''.join(audio[job].tobytes() for job in jobs)
print(hashlib.sha256(sound).hexdigest())
"""


def hash_in_new_process(order, **environment):
  """Starts hashing TINY; `communicate` gives the hash."""
  return subprocess.Popen(
    [sys.executable, '-c', HASH_PROGRAM, order],
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    text=True,
  )


class DeterminismTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    audio = [row[3].tobytes() for row in espeak_synthesis.synthesise(TINY)]
    self.sha256 = hashlib.sha256(b''.join(audio)).hexdigest()

  def test_two_fresh_processes_agree(self):
    runs = [
      hash_in_new_process('forwards', PYTHONHASHSEED='1', LC_ALL='C'),
      hash_in_new_process('backwards', PYTHONHASHSEED='2', MALLOC_PERTURB_='9'),
    ]
    hashes = [run.communicate()[0].strip() for run in runs]
    self.assertEqual(hashes, [self.sha256, self.sha256])

  @pytest.mark.skipif(
    importlib.metadata.version('espeakng-loader') != '0.2.4'
    or (sys.platform, platform.machine()) != ('linux', 'x86_64'),
    reason='the hash belongs to espeakng-loader 0.2.4 on Linux x86-64',
  )
  def test_hash_is_pinned(self):
    self.assertEqual(self.sha256, TINY_SHA256)

  def test_speech_does_not_depend_on_earlier_speech(self):
    def speak():
      return espeak_ng.synthesise_speech('yes', 'gmw/en-US+m1').tolist()

    first = speak()
    espeak_ng.synthesise_speech('one two three', 'gmw/en+Jacky', volume=200)
    self.assertEqual(speak(), first)


class SynthesiseTest(parameterized.TestCase):
  def test_rows_are_sorted_and_complete(self):
    ids, keywords, speakers, audio = zip(
      *espeak_synthesis.synthesise(TINY), strict=True
    )
    self.assertSequenceEqual(ids, sorted(ids))
    self.assertLen(set(ids), 3 * 4 * 2)
    self.assertIn('stop/speaker_003_take_01', ids)
    for row in zip(ids, keywords, speakers, strict=True):
      self.assertStartsWith(row[0], f'{row[1]}/{row[2]}_take_')
    for clip in audio:
      self.assertEqual(clip.shape, (16_000,))
      self.assertEqual(clip.dtype, np.int16)
    self.assertLen({clip.tobytes() for clip in audio}, 3 * 4 * 2)

  @parameterized.parameters(
    dict(num_speakers=50), dict(takes=90), dict(keywords=('stop', 'go'))
  )
  def test_utterance_does_not_depend_on_the_size_of_the_corpus(self, **sizes):
    small = EspeakConfig(keywords=('stop',), num_speakers=4, takes=3)
    large = EspeakConfig(
      **({'keywords': ('stop',), 'num_speakers': 4, 'takes': 3} | sizes)
    )
    expected = {row[0]: row[3] for row in espeak_synthesis.synthesise(small)}
    np.testing.assert_array_equal(
      espeak_synthesis.synthesise_utterance(large, 'stop', 3, 2),
      expected['stop/speaker_003_take_02'],
    )

  @parameterized.parameters('seed', 'speaker', 'take', 'keyword')
  def test_utterances_differ(self, what):
    other = EspeakConfig(seed=1 if what == 'seed' else 0)
    job = (
      'go' if what == 'keyword' else 'no',
      int(what == 'speaker'),
      int(what == 'take'),
    )
    first = espeak_synthesis.synthesise_utterance(EspeakConfig(), 'no', 0, 0)
    second = espeak_synthesis.synthesise_utterance(other, *job)
    self.assertGreater(np.mean(first != second), 0.9)

  @parameterized.product(snr_db=(0, 10), take=(0, 1, 2))
  def test_noise_has_the_chosen_level(self, snr_db, take):
    clean, noisy = (
      espeak_synthesis.synthesise_utterance(
        EspeakConfig(min_snr_db=snr, max_snr_db=snr), 'left', 1, take
      ).astype(float)
      for snr in (60, snr_db)
    )
    noise = noisy - clean
    loud = np.flatnonzero(np.abs(clean) > 0.01 * np.abs(clean).max())
    word = clean[loud[0] : loud[-1]]
    measured = 10 * np.log10(np.mean(word**2) / np.mean(noise**2))
    # The two disagree on where the word ends, by the margins of the trim.
    self.assertAlmostEqual(measured, snr_db, delta=0.7)

  def test_long_word_is_spoken_faster_and_whole(self):
    calls = []
    speak = espeak_ng.synthesise_speech

    def record(text, voice, **options):
      calls.append((options['rate_wpm'], speak(text, voice, **options)))
      return calls[-1][1]

    speaker = espeak_synthesis._Speaker('gmw/en-US+m3', 50, 50, 130, 0)
    with mock.patch.object(espeak_ng, 'synthesise_speech', record):
      word = espeak_synthesis._speak_word(
        'responsibility', speaker, integer_audio.Draws(0)
      )
    rates = [rate for rate, _ in calls]
    self.assertGreater(len(rates), 1)
    self.assertEqual(rates, sorted(set(rates)))
    speech = np.abs(calls[-1][1].astype(int))
    loud = np.flatnonzero(speech > 0.01 * speech.max())
    spoken_s = (loud[-1] - loud[0]) / 22_050
    self.assertBetween(len(word), 16_000 * spoken_s, 16_000)

  def test_word_longer_than_a_second_at_any_rate_is_refused(self):
    config = EspeakConfig(keywords=('antidisestablishmentarianism' * 2,))
    with self.assertRaisesRegex(InputError, "keyword 'anti.* must fit a clip"):
      next(espeak_synthesis.synthesise(config))

  @parameterized.parameters(
    (dict(num_speakers=0), r'num_speakers must be in \[1, 1000\], got 0'),
    (dict(num_speakers=1_001), 'num_speakers must be in .*, got 1001'),
    (dict(takes=101), r'takes must be in \[1, 100\], got 101'),
    (dict(seed=-1), 'seed must be in .*, got -1'),
    (dict(min_snr_db=9, max_snr_db=8), r'max_snr_db must be in \[9, 60\]'),
    (dict(min_snr_db=-21), r'min_snr_db must be in \[-20, 60\], got -21'),
    (dict(keywords=()), 'one or more different words'),
    (dict(keywords=('go', 'go')), 'one or more different words'),
    (dict(keywords=('go/up',)), "letters a to z, got 'go/up'"),
    (dict(keywords=('Go',)), "letters a to z, got 'Go'"),
  )
  def test_config_is_validated(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      EspeakConfig(**fields)


class SpeakersTest(absltest.TestCase):
  def test_every_variant_and_accent_sounds_different(self):
    """The library would speak on without a variant that it does not know."""
    variants = {
      espeak_ng.synthesise_speech('yes', f'gmw/en+{name}').tobytes()
      for name in ('', *espeak_synthesis._VARIANTS)
    }
    self.assertLen(variants, 1 + len(espeak_synthesis._VARIANTS))
    accents = {
      espeak_ng.synthesise_speech('go right up', f'gmw/{name}').tobytes()
      for name in espeak_synthesis._ACCENTS
    }
    self.assertLen(accents, len(espeak_synthesis._ACCENTS))

  def test_no_variant_repeats_before_all_were_used(self):
    count = len(espeak_synthesis._VARIANTS)
    voices = [espeak_synthesis._speaker(0, i) for i in range(2 * count)]
    variants = [voice.voice.partition('+')[2] for voice in voices]
    self.assertLen(set(variants[:count]), count)
    self.assertLen(set(variants[count:]), count)
    self.assertLen(set(voices), 2 * count)


class EspeakNgTest(parameterized.TestCase):
  def test_parameters_do_what_they_say(self):
    def speak(**options):
      return espeak_ng.synthesise_speech('down', 'gmw/en+m3', **options)

    def period(audio):
      """Samples a period of the voice: where the autocorrelation peaks."""
      audio = audio.astype(float)
      correlation = scipy.signal.correlate(audio, audio)[len(audio) - 1 :]
      return 60 + np.argmax(correlation[60:500])

    self.assertGreater(len(speak(rate_wpm=100)), 1.5 * len(speak(rate_wpm=250)))
    self.assertGreater(period(speak(pitch=20)), 1.3 * period(speak(pitch=80)))
    loud, quiet = (np.std(speak(volume=v).astype(float)) for v in (80, 40))
    self.assertAlmostEqual(loud / quiet, 2, delta=0.1)

  def test_missing_package_names_the_extra(self):
    with mock.patch.dict(sys.modules, {'espeakng_loader': None}):
      with self.assertRaisesRegex(InputError, r'unlearn_jax\[synthetic\]'):
        espeak_ng.synthesise_speech('yes', 'gmw/en')

  def test_library_in_use_elsewhere_is_refused(self):
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data_path = espeakng_loader.get_data_path().encode()
    library.espeak_Initialize(2, 0, data_path, 0)
    try:
      with self.assertRaisesRegex(InputError, 'in a process of its own'):
        espeak_ng.synthesise_speech('yes', 'gmw/en')
    finally:
      library.espeak_Terminate()
      ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
    self.assertNotEmpty(espeak_ng.synthesise_speech('yes', 'gmw/en'))

  @parameterized.parameters('gmw/nowhere', 'gmw/en+nobody')
  def test_unknown_voice(self, voice):
    with self.assertRaisesRegex(InputError, 'no voice.*no(where|body)'):
      espeak_ng.synthesise_speech('yes', voice)

  @parameterized.parameters(
    (dict(rate_wpm=79), r'rate_wpm must be in \[80, 450\], got 79'),
    (dict(pitch=100), r'pitch must be in \[0, 99\], got 100'),
    (dict(pitch_range=-1), r'pitch_range must be in \[0, 99\], got -1'),
    (dict(volume=201), r'volume must be in \[0, 200\], got 201'),
  )
  def test_parameters_are_validated(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      espeak_ng.synthesise_speech('yes', 'gmw/en', **options)


if __name__ == '__main__':
  absltest.main()
