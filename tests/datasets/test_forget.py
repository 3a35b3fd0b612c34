"""The grammar of --forget, what it selects, and what it refuses."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets import forget
from unlearn_jax.datasets.corpus import Corpus


def make_corpus():
  """10 takes of 4 keywords by 5 speakers; speaker-4 is not in training."""
  keyword, speaker, take = np.indices((4, 5, 10)).reshape(3, -1)
  keywords = ('go', 'no', 'stop', 'yes')
  speakers = tuple(f'speaker-{i}' for i in range(5))
  ids = [
    f'{keywords[k]}/{i}_{t}'
    for k, i, t in zip(keyword, speaker, take, strict=True)
  ]
  return Corpus(
    name='fake',
    source=(),
    utterance_id=np.array(ids),
    keyword=np.int32(keyword),
    speaker=np.int32(speaker),
    keywords=keywords,
    speakers=speakers,
    official_split=None,
    fingerprint='',
  )


CORPUS = make_corpus()
TRAINING = np.flatnonzero(CORPUS.speaker < 4)  # 160 rows.


def select(text, corpus=CORPUS, training=TRAINING, seed=0):
  return forget.select(forget.parse(text), corpus, training, seed=seed)


class ParseTest(parameterized.TestCase):
  @parameterized.parameters(
    ('sample:5%', 'sample:5%', 'sample'),
    ('sample:5.0%', 'sample:5%', 'sample'),
    ('sample:0.25%', 'sample:0.25%', 'sample'),
    ('sample:1e-3%', 'sample:0.001%', 'sample'),
    ('sample:0200', 'sample:200', 'sample'),
    ('keyword:stop', 'keyword:stop', 'keyword'),
    ('keyword:stop+keyword:go', 'keyword:go+keyword:stop', 'keyword'),
    ('keyword:go+keyword:go', 'keyword:go', 'keyword'),
    (' speaker:0007 + keyword:go ', 'keyword:go+speaker:0007', 'mixed'),
    ('ids:a/b.txt', 'ids:a/b.txt', 'ids'),
    ('ids:a+b.txt+speaker:7', 'ids:a+b.txt+speaker:7', 'mixed'),
    ('speaker:a:b', 'speaker:a:b', 'speaker'),
  )
  def test_canonical_form_and_kind(self, text, canonical, kind):
    request = forget.parse(text)
    self.assertEqual(str(request), canonical)
    self.assertEqual(request.kind, kind)
    self.assertEqual(forget.parse(canonical), request)
    self.assertEqual(hash(forget.parse(canonical)), hash(request))

  @parameterized.parameters(
    '',
    'stop',
    'keyword',
    'keyword:',
    ':stop',
    'word:stop',
    '+keyword:stop',
    'keyword:stop+word:go',
    'Keyword:stop',
  )
  def test_malformed(self, text):
    with self.assertRaises(types.InputError) as caught:
      forget.parse(text)
    message = str(caught.exception)
    self.assertStartsWith(message, f'--forget={text}: ')
    self.assertIn('must be sample:5%, sample:200, keyword:NAME', message)
    self.assertNotIn('\n', message)

  @parameterized.parameters(
    '0%',
    '100%',
    '-1%',
    '101%',
    'nan%',
    'inf%',
    '%',
    'five%',
    '0',
    '-3',
    '1.5',
    'five',
  )
  def test_bad_sample(self, value):
    with self.assertRaisesRegex(
      types.InputError, rf'sample:{value} must be .*percentage in \(0, 100\)'
    ):
      forget.parse(f'sample:{value}')

  def test_forgotten_classes_are_those_of_the_task(self):
    request = forget.parse('speaker:9+keyword:stop+speaker:7+sample:1%')
    self.assertEqual(forget.forgotten_classes(request, 'kws'), ('stop',))
    self.assertEqual(forget.forgotten_classes(request, 'sid'), ('7', '9'))
    request = forget.parse('ids:list.txt')
    self.assertEqual(forget.forgotten_classes(request, 'sid'), ())


class SelectTest(parameterized.TestCase):
  @parameterized.parameters(
    ('sample:5%', 8), ('sample:2%', 3), ('sample:0.4%', 1), ('sample:7', 7)
  )
  def test_size_of_a_sample(self, text, size):
    self.assertLen(select(text), size)

  def test_samples_are_sorted_training_rows(self):
    rows = select('sample:30%')
    self.assertTrue((np.diff(rows) > 0).all())
    self.assertTrue(np.isin(rows, TRAINING).all())
    self.assertEqual(rows.dtype, np.int64)

  def test_samples_of_a_seed_are_nested(self):
    previous = set()
    for percent in range(1, 100, 7):
      rows = set(select(f'sample:{percent}%').tolist())
      self.assertTrue(previous <= rows)
      previous = rows

  def test_seeds_draw_uniformly(self):
    draws = np.zeros(len(CORPUS))
    for seed in range(400):
      draws[select('sample:40', seed=seed)] += 1
    self.assertEqual(draws.sum(), 400 * 40)
    # 100 of 400 for each training row, standard deviation 8.7.
    self.assertLess(np.abs(draws[TRAINING] - 100).max(), 4.5 * 8.7)
    self.assertEqual(draws[CORPUS.speaker == 4].sum(), 0)

  def test_independent_of_the_order_of_rows(self):
    order = np.random.default_rng(0).permutation(len(CORPUS))
    other = dataclasses.replace(
      CORPUS,
      utterance_id=CORPUS.utterance_id[order],
      keyword=CORPUS.keyword[order],
      speaker=CORPUS.speaker[order],
    )
    text = 'sample:10%+keyword:go+speaker:speaker-2'
    training = np.flatnonzero(other.speaker < 4)
    np.random.default_rng(1).shuffle(training)
    rows = select(text, other, training)
    self.assertSetEqual(
      set(other.utterance_id[rows]), set(CORPUS.utterance_id[select(text)])
    )

  def test_keyword_and_speaker_select_training_rows_alone(self):
    np.testing.assert_array_equal(
      select('keyword:stop'),
      np.flatnonzero((CORPUS.keyword == 2) & (CORPUS.speaker < 4)),
    )
    np.testing.assert_array_equal(
      select('speaker:speaker-3'), np.flatnonzero(CORPUS.speaker == 3)
    )

  def test_parts_select_their_union(self):
    parts = ['keyword:stop', 'speaker:speaker-1', 'sample:10%']
    want = np.unique(np.concatenate([select(part) for part in parts]))
    np.testing.assert_array_equal(select('+'.join(parts)), want)

  @parameterized.parameters(
    ('keyword:stp', "no keyword 'stp'; nearest are stop of 4 keywords"),
    ('keyword:backward', "no keyword 'backward'; there are 4 keywords"),
    ('speaker:speaker-9', "no speaker 'speaker-9'; nearest are speaker-"),
    ('speaker:speaker-4', 'speaker:speaker-4 selects none of the 160 train'),
    ('sample:0.1%', 'sample:0.1% selects none of the 160 training'),
    ('sample:161', 'sample:161 must be at most the 160 training'),
    ('sample:160', 'selects all 160 training utterances; must leave some'),
    ('keyword:go+keyword:no+keyword:stop+keyword:yes', 'selects all 160'),
    ('sample:50%+speaker:speaker-4', 'speaker:speaker-4 selects none'),
  )
  def test_refuses(self, text, message):
    with self.assertRaises(types.InputError) as caught:
      select(text)
    self.assertStartsWith(str(caught.exception), '--forget=')
    self.assertIn(message, str(caught.exception))


class IdsTest(parameterized.TestCase):
  def file(self, content):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder) / 'ids.txt'
    path.write_bytes(content)
    return path

  def test_file_with_comments_blanks_and_repeats(self):
    path = self.file(
      b'\xef\xbb\xbf# all mine\n\n  go/0_1 \r\nyes/3_9  # the last\ngo/0_1\n'
    )
    rows = select(f'ids:{path}')
    self.assertEqual(list(CORPUS.utterance_id[rows]), ['go/0_1', 'yes/3_9'])

  @parameterized.parameters(
    (b'', 'has no ids'),
    (b'# nothing\n\n', 'has no ids'),
    (b'\xff\xfe\x00', 'not UTF-8 text'),
    (
      b'go/0_1\na\nb\nc\nd\n',
      '4 of the 5 ids in .* must be in corpus fake and '
      'are not, such as a, b, c\\.',
    ),
    (
      b'go/0_1\ngo/4_1\n',
      '1 of the 2 ids in .* must be in the training part '
      'and are not, such as go/4_1',
    ),
  )
  def test_refuses(self, content, message):
    with self.assertRaisesRegex(types.InputError, message):
      select(f'ids:{self.file(content)}')

  def test_missing_file_or_folder(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    for path in (f'{folder}/absent.txt', folder):
      with self.assertRaisesRegex(
        types.InputError, 'must be a text file of utterance ids'
      ):
        select(f'ids:{path}')


class HashTest(absltest.TestCase):
  def test_identifies_a_set(self):
    ids = ['b', 'a']
    one = forget.forget_hash(ids)
    self.assertEqual(one, forget.forget_hash(np.array(['a', 'b', 'a'])))
    self.assertNotEqual(one, forget.forget_hash(['a', 'c']))
    # The first 16 digits of `printf 'a\nb' | sha256sum`.
    self.assertEqual(one, '7e18f737311b2dc3')


if __name__ == '__main__':
  absltest.main()
