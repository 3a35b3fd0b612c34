"""Trials: the published format, and bad lists."""

import numpy as np
import pytest

from unlearn_jax.datasets import trials
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
