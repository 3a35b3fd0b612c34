"""Splits: disjoint, whole, stratified, and functions of ids alone."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
from corpora import grid
from corpora import make_corpus
from corpora import OFFICIAL
from corpora import parts_of
import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets import splits


def permuted(corpus, seed=0):
  order = np.random.default_rng(seed).permutation(len(corpus))
  names = ['utterance_id', 'keyword', 'speaker', 'session']
  if corpus.official_split is not None:
    names.append('official_split')
  return dataclasses.replace(
    corpus, **{name: getattr(corpus, name)[order] for name in names}
  )


class SplitTest(parameterized.TestCase):
  @parameterized.parameters(*splits.KINDS)
  def test_parts_are_disjoint_whole_and_sorted(self, kind):
    corpus = make_corpus(grid(), OFFICIAL)
    split = splits.split(corpus, kind, seed=0)
    rows = np.concatenate(parts_of(split))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(corpus)))
    for part in parts_of(split):
      self.assertTrue((np.diff(part) > 0).all())
      self.assertEqual(part.dtype, np.int64)

  @parameterized.parameters(*splits.KINDS)
  def test_same_ids_whatever_the_order_of_rows(self, kind):
    corpus = make_corpus(grid(takes=5), OFFICIAL[:200])
    other = permuted(corpus)
    for one, two in zip(
      parts_of(splits.split(corpus, kind, seed=3)),
      parts_of(splits.split(other, kind, seed=3)),
      strict=True,
    ):
      self.assertSetEqual(
        set(corpus.utterance_id[one]), set(other.utterance_id[two])
      )

  @parameterized.parameters('speaker', 'utterance')
  def test_seeds_differ_and_one_seed_repeats(self, kind):
    corpus = make_corpus(grid())
    one, same, other = (
      splits.split(corpus, kind, seed=seed).test for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    self.assertFalse(np.array_equal(one, other))

  def test_unknown_kind(self):
    with self.assertRaisesRegex(
      types.InputError, '--split=random: must be one of official, speaker, utt'
    ):
      splits.split(make_corpus(grid()), 'random', seed=0)

  @parameterized.parameters((0.0, 0.2), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2))
  def test_fractions_out_of_bounds(self, validation, test):
    with self.assertRaisesRegex(types.InputError, '--validation_fraction='):
      splits.split(
        make_corpus(grid()),
        'utterance',
        seed=0,
        validation_fraction=validation,
        test_fraction=test,
      )


class OfficialTest(parameterized.TestCase):
  def test_is_the_corpus_own(self):
    split = splits.split(make_corpus(grid(), OFFICIAL), 'official', seed=0)
    for value, part in enumerate(parts_of(split)):
      np.testing.assert_array_equal(part, np.flatnonzero(OFFICIAL == value))

  def test_validation_is_carved_out_of_training(self):
    official = np.where(OFFICIAL == 2, np.int8(2), np.int8(0))
    corpus = make_corpus(grid(), official)
    split = splits.split(corpus, 'official', seed=0, validation_fraction=0.25)
    np.testing.assert_array_equal(split.test, np.flatnonzero(official == 2))
    # 8 takes of training in each cell.
    counts = np.zeros((4, 10), int)
    rows = split.validation
    np.add.at(counts, (corpus.keyword[rows], corpus.speaker[rows]), 1)
    np.testing.assert_array_equal(counts, 2)
    np.testing.assert_array_equal(official == 2, corpus.official_split == 2)

  def test_absent(self):
    with self.assertRaisesRegex(
      types.InputError, '--split=official: .* no off'
    ):
      splits.split(make_corpus(grid()), 'official', seed=0)

  def test_empty_part(self):
    corpus = make_corpus(grid(), np.zeros(400, np.int8))
    with self.assertRaisesRegex(types.InputError, '--split=official: the test'):
      splits.split(corpus, 'official', seed=0)


class SpeakerTest(parameterized.TestCase):
  def test_speakers_are_disjoint_and_as_many_as_asked(self):
    corpus = make_corpus(grid(num_speakers=20, takes=2))
    split = splits.split(corpus, 'speaker', seed=0)
    speakers = [set(corpus.speaker[part]) for part in parts_of(split)]
    self.assertEqual([len(s) for s in speakers], [14, 2, 4])
    self.assertLen(set.union(*speakers), 20)

  def test_few_speakers_leave_none_empty(self):
    corpus = make_corpus(grid(num_speakers=3))
    split = splits.split(corpus, 'speaker', seed=0)
    self.assertEqual([len(part) for part in parts_of(split)], [40, 40, 40])

  def test_class_of_one_pseudo_speaker_is_in_every_part(self):
    corpus = make_corpus([*grid(), ('_silence_', 'none', 30)])
    split = splits.split(corpus, 'speaker', seed=0)
    silence = corpus.keywords.index('_silence_')
    counts = [
      (corpus.keyword[part] == silence).sum() for part in parts_of(split)
    ]
    self.assertEqual(counts, [21, 3, 6])
    speakers = [
      set(corpus.speaker[part][corpus.keyword[part] != silence])
      for part in parts_of(split)
    ]
    self.assertEqual([len(s) for s in speakers], [7, 1, 2])
    self.assertLen(set.union(*speakers), 10)

  def test_too_few_speakers(self):
    corpus = make_corpus([*grid(num_speakers=2), ('_silence_', 'none', 30)])
    with self.assertRaisesRegex(
      types.InputError, '--split=speaker: corpus fake has 2 speakers; must'
    ):
      splits.split(corpus, 'speaker', seed=0)


class UtteranceTest(parameterized.TestCase):
  def counts(self, corpus, **kwargs):
    """Takes a cell, [parts, keywords, speakers]."""
    split = splits.split(corpus, 'utterance', **kwargs)
    counts = np.zeros((3, len(corpus.keywords), len(corpus.speakers)), int)
    for part, rows in enumerate(parts_of(split)):
      np.add.at(counts[part], (corpus.keyword[rows], corpus.speaker[rows]), 1)
    return counts

  def test_ten_takes_give_seven_one_two(self):
    counts = self.counts(make_corpus(grid()), seed=0)
    for part, takes in enumerate((7, 1, 2)):
      np.testing.assert_array_equal(counts[part], takes)

  @parameterized.product(takes=(1, 2, 3, 4, 7, 11, 13), seed=(0, 1))
  def test_cells_and_keywords_give_their_share(self, takes, seed):
    counts = self.counts(
      make_corpus(grid(num_speakers=21, takes=takes)), seed=seed
    )
    for part, fraction in ((1, 0.1), (2, 0.2)):
      share = takes * fraction
      self.assertLess(np.abs(counts[part] - share).max(), 1.0 + share % 1)
      if takes >= 3:  # Below, rare speakers move to training.
        by_keyword = counts[part].sum(1)
        self.assertLess(np.abs(by_keyword - 21 * share).max(), 1.5)

  def test_cells_of_one_take_are_not_drawn_by_speaker(self):
    counts = self.counts(
      make_corpus(grid(num_keywords=40, num_speakers=50, takes=1)), seed=0
    )
    by_speaker = counts[2].sum(0)  # 8 of 40 each in the mean.
    self.assertEqual(counts[2].sum(), 400)
    self.assertGreaterEqual(by_speaker.min(), 1)
    self.assertLessEqual(by_speaker.max(), 18)

  def test_every_speaker_has_a_training_take(self):
    cells = [(f'word{s % 3}', f'speaker{s}', 1 + s % 2) for s in range(60)]
    cells += grid(3, 8)
    for seed in range(5):
      counts = self.counts(make_corpus(cells), seed=seed)
      self.assertGreater(counts[0].sum(0).min(), 0)

  def test_empty_part(self):
    with self.assertRaisesRegex(types.InputError, 'the validation part'):
      splits.split(make_corpus([('word', 'speaker', 4)]), 'utterance', seed=0)


class RandomRankTest(absltest.TestCase):
  def test_depends_on_id_seed_and_purpose_alone(self):
    one = splits.random_rank(['a', 'b', 'c'], seed=0, purpose='x')
    two = splits.random_rank(['c', 'a'], seed=0, purpose='x')
    np.testing.assert_array_equal(one[[2, 0]], two)
    self.assertNotEqual(one[0], splits.random_rank('a', seed=1, purpose='x')[0])
    self.assertNotEqual(one[0], splits.random_rank('a', seed=0, purpose='y')[0])

  def test_is_uniform(self):
    rank = splits.random_rank(map(str, range(4_000)), seed=0, purpose='x')
    counts, _ = np.histogram(np.float64(rank), 10, (0, 2.0**64))
    self.assertLess(np.abs(counts - 400).max(), 80)  # 4 standard deviations.


if __name__ == '__main__':
  absltest.main()
