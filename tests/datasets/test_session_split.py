"""Splits by session, and splits that leave a class empty."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import corpora
from corpora import grid
from corpora import make_corpus
from corpora import parts_of
import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets import splits


class SessionTest(parameterized.TestCase):
  def sessions(self, corpus, **kwargs):
    """Names of the sessions of each part, by speaker."""
    split = splits.split(corpus, 'session', seed=0, **kwargs)
    return [
      [
        {corpus.sessions[corpus.session[i]] for i in part[mask]}
        for part in parts_of(split)
        for mask in [corpus.speaker[part] == speaker]
      ]
      for speaker in range(len(corpus.speakers))
    ]

  def test_last_of_ten_takes_are_for_test(self):
    for training, validation, test in self.sessions(make_corpus(grid())):
      self.assertEqual(training, {f'take {i}' for i in range(7)})
      self.assertEqual(validation, {'take 7'})
      self.assertEqual(test, {'take 8', 'take 9'})

  def test_numbers_count_by_value(self):
    names = ('10', '9', 'b', '010', 'a2b10', 'a10b1', '1', 'a2b9')
    corpus = make_corpus([('word', 'speaker', 8)])
    corpus = dataclasses.replace(corpus, sessions=names)
    # 1 9 010 10 | a2b9 a2b10 | a10b1 b
    (parts,) = self.sessions(
      corpus, validation_fraction=0.25, test_fraction=0.25
    )
    self.assertEqual(
      parts, [{'1', '9', '010', '10'}, {'a2b9', 'a2b10'}, {'a10b1', 'b'}]
    )

  def test_three_sessions_give_one_each(self):
    for parts in self.sessions(make_corpus(grid(takes=3))):
      self.assertEqual(parts, [{'take 0'}, {'take 1'}, {'take 2'}])

  def test_speakers_have_sessions_of_their_own(self):
    corpus = make_corpus([('word', 'a', 3), ('word', 'b', 20)])
    a, b = self.sessions(corpus)
    self.assertEqual(a, [{'take 0'}, {'take 1'}, {'take 2'}])
    self.assertEqual([len(part) for part in b], [14, 2, 4])

  def test_seeds_agree(self):
    corpus = make_corpus(grid())
    for part in splits.PARTS:
      one, two = (
        getattr(splits.split(corpus, 'session', seed=seed), part)
        for seed in (0, 1)
      )
      np.testing.assert_array_equal(one, two)

  @parameterized.parameters(1, 2)
  def test_too_few_sessions(self, takes):
    corpus = make_corpus([*grid(), ('word0', 'poor', takes)])
    with self.assertRaisesRegex(
      types.InputError,
      f'--split=session: speaker poor of corpus fake has {takes} sessions; '
      'must have more than 1 for validation and 1 for test',
    ):
      splits.split(corpus, 'session', seed=0)

  def test_unknown_sessions(self):
    corpus = make_corpus(grid(takes=4))
    names = ('', *corpus.sessions[1:])
    for sessions, count in ((names, 40), (('',) * 4, 160)):
      with self.assertRaisesRegex(
        types.InputError,
        f'--split=session: .* session of {count} of its 160 recordings; must '
        'be official, speaker or utterance',
      ):
        splits.split(
          dataclasses.replace(corpus, sessions=sessions), 'session', seed=0
        )


class CheckClassesTest(parameterized.TestCase):
  def check(self, corpus, kind):
    label, names = corpus.labels('sid')
    split = splits.split(corpus, kind, seed=0)
    splits.check_classes(label, split, names, kind=kind)

  @parameterized.parameters('utterance', 'session', 'official')
  def test_every_speaker_in_training_and_test(self, kind):
    self.check(make_corpus(grid(), corpora.OFFICIAL), kind)

  def test_disjoint_speakers(self):
    with self.assertRaisesRegex(
      types.InputError,
      r'--split=speaker: the training part has no utterance of speaker\d '
      r'\(3 of 10 classes have none\); .* needs utterance, session or official',
    ):
      self.check(make_corpus(grid()), 'speaker')

  def test_speaker_without_a_test_utterance(self):
    corpus = make_corpus([*grid(), ('word1', 'once', 1)])
    with self.assertRaisesRegex(
      types.InputError, 'test part has no utterance of once .1 of 11 classes'
    ):
      self.check(corpus, 'utterance')

  def test_one_speaker_is_no_task(self):
    with self.assertRaisesRegex(types.InputError, '--task=sid: .* at least 2'):
      self.check(make_corpus(grid(num_speakers=1)), 'utterance')


if __name__ == '__main__':
  absltest.main()
