"""Trials: the published format, every rule of drawing, and bad lists."""

import dataclasses
import itertools

import numpy as np
import pytest

from unlearn_jax.datasets import trials
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.types import InputError

IDS = [
  'id10270/5r0dWxy17C8/00001',
  'id10270/8jEAjG6SegY/00008',
  'id10270/x6uYqmx31kE/00001',
  'id10300/ize_eiCFEg0/00003',
]
# The first two lines of VoxCeleb1's veri_test.txt.
LINES = """\
1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav
0 id10270/x6uYqmx31kE/00001.wav id10300/ize_eiCFEg0/00003.wav
"""


def write(tmp_path, text):
  path = tmp_path / 'veri_test.txt'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def test_published_format(tmp_path):
  found = trials.read_trials(write(tmp_path, LINES), IDS)
  np.testing.assert_array_equal(found.target, [True, False])
  np.testing.assert_array_equal(found.first, [2, 2])
  np.testing.assert_array_equal(found.second, [1, 3])
  assert found.target.dtype == bool and found.first.dtype == np.int64


def test_ids_without_an_extension_and_blank_lines(tmp_path):
  text = '\n' + LINES.replace('.wav', '').replace(' ', '\t') + '\r\n'
  found = trials.read_trials(write(tmp_path, text), np.array(IDS))
  np.testing.assert_array_equal(found.second, [1, 3])


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    (LINES + '2 a b\n', r"line 3 must be 1 or 0 and two utterances, got '2 a"),
    (LINES + '\n1 a\n', "line 4 must be 1 or 0 and two utterances, got '1 a'"),
    ('1 a b c', 'line 1 must be 1 or 0'),
    (
      LINES + '1 x/1.wav x/2.wav\n0 x/1.wav ' + IDS[0] + '.wav',
      r'2 of 4 trials name .*; 2 are not, such as x/1.wav, x/2.wav\.',
    ),
    (LINES.splitlines()[0], '1 of 1 trials are targets; must have some'),
    (LINES.splitlines()[1], '0 of 1 trials are targets; must have some'),
    ('', '0 of 0 trials are targets'),
    (b'\xff\xfe', 'must be a list of trials .not UTF-8 text'),
  ],
)
def test_bad_list_is_one_line(tmp_path, text, problem):
  path = write(tmp_path, text)
  with pytest.raises(InputError, match=f'^--trials={path}: {problem}') as e:
    trials.read_trials(path, IDS)
  assert '\n' not in str(e.value)


def test_absent_list(tmp_path):
  with pytest.raises(InputError, match='No such file'):
    trials.read_trials(tmp_path / 'absent.txt', IDS)


def make_corpus(num_speakers=5, num_keywords=3, num_sessions=4, known=True):
  """One take of each keyword in each session of each speaker."""
  speaker, keyword, session = np.indices(
    (num_speakers, num_keywords, num_sessions)
  ).reshape(3, -1)
  return Corpus(
    name='fake',
    source=(),
    utterance_id=np.array(
      [
        f'{s}/{k}_{i}'
        for s, k, i in zip(speaker, keyword, session, strict=True)
      ]
    ),
    keyword=keyword.astype(np.int32),
    speaker=speaker.astype(np.int32),
    keywords=tuple(f'word{k}' for k in range(num_keywords)),
    speakers=tuple(f'speaker{s}' for s in range(num_speakers)),
    official_split=None,
    fingerprint='',
    **({'session': session.astype(np.int32)} if known else {}),
    sessions=tuple(f'take{i}' for i in range(num_sessions)) if known else ('',),
  )


def sets(found):
  """Unordered pairs, targets and others."""
  pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
  pairs = [frozenset(pair) for pair in pairs]
  parts = [
    [p for p, t in zip(pairs, found.target, strict=True) if t == target]
    for target in (True, False)
  ]
  for part in parts:
    assert len(set(part)) == len(part)  # No pair comes twice.
  return [set(part) for part in parts]


def brute_force(corpus, rows, same_keyword):
  """All trials that the rules allow."""
  targets, others = set(), set()
  names = np.array(corpus.sessions)[corpus.session]
  for a, b in itertools.combinations(rows.tolist(), 2):
    if same_keyword and corpus.keyword[a] != corpus.keyword[b]:
      continue
    if corpus.speaker[a] != corpus.speaker[b]:
      others.add(frozenset([a, b]))
    elif names[a] != names[b] or not names[a]:
      targets.add(frozenset([a, b]))
  return targets, others


@pytest.mark.parametrize('same_keyword', [False, True])
@pytest.mark.parametrize('known', [False, True])
@pytest.mark.parametrize('rows', [np.arange(60), np.arange(0, 60, 2)])
def test_asking_for_more_than_there_are_gives_all(known, same_keyword, rows):
  corpus = make_corpus(known=known)
  found = trials.make_trials(
    corpus, rows, max_trials=100_000, seed=0, same_keyword=same_keyword
  )
  assert tuple(sets(found)) == brute_force(corpus, rows, same_keyword)


@pytest.mark.parametrize('same_keyword', [False, True])
def test_drawn_trials_follow_the_rules_and_are_balanced(same_keyword):
  corpus = make_corpus(num_speakers=8)
  rows = np.arange(len(corpus))
  found = trials.make_trials(
    corpus, rows[::-1], max_trials=170, seed=1, same_keyword=same_keyword
  )
  targets, others = sets(found)
  assert len(targets) == len(others) == 85
  allowed = brute_force(corpus, rows, same_keyword)
  assert targets <= allowed[0] and others <= allowed[1]
  for kind in (True, False):
    counts = np.bincount(corpus.speaker[found.first[found.target == kind]])
    assert len(counts) == 8 and set(counts) <= {10, 11}


def test_fewer_trials_than_speakers():
  found = trials.make_trials(
    make_corpus(num_speakers=20), np.arange(240), max_trials=12, seed=0
  )
  assert found.target.sum() == 6 and len(found.target) == 12


def test_a_seed_repeats_and_the_order_of_rows_does_not_count():
  corpus = make_corpus()
  shuffled = np.random.default_rng(0).permutation(60)
  one, same, other = (
    trials.make_trials(corpus, rows, max_trials=40, seed=seed)
    for rows, seed in ((np.arange(60), 3), (shuffled, 3), (np.arange(60), 4))
  )
  for a, b in zip(one, same, strict=True):
    np.testing.assert_array_equal(a, b)
  assert sets(one) != sets(other)


def test_speakers_that_are_no_persons_are_left_out():
  corpus = dataclasses.replace(
    make_corpus(), speakers=('a', '_background_noise_', 'b', 'c', 'd')
  )
  found = trials.make_trials(corpus, np.arange(60), max_trials=10_000, seed=0)
  assert set(corpus.speaker[np.r_[found.first, found.second]]) == {0, 2, 3, 4}


@pytest.mark.parametrize(
  ('rows', 'same_keyword', 'problem'),
  [
    (np.arange(12), False, '12 utterances of 1 speakers .* and 0 other'),
    (np.array([0, 12]), False, '2 utterances of 2 speakers give 0 target'),
    (np.array([0, 4, 12]), False, '3 utterances of 2 speakers give 0 target'),
    (np.array([0, 5, 12]), True, 'give 0 target and 1 other'),
    (np.arange(0), False, '0 utterances of 0 speakers'),
  ],
)
def test_too_few_utterances(rows, same_keyword, problem):
  with pytest.raises(InputError, match=problem):
    trials.make_trials(
      make_corpus(), rows, max_trials=10, seed=0, same_keyword=same_keyword
    )


def test_too_few_trials():
  with pytest.raises(ValueError, match='max_trials must be at least 2, got 1'):
    trials.make_trials(make_corpus(), np.arange(60), max_trials=1, seed=0)
