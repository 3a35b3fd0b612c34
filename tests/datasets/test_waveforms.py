"""Waveforms of any length, gathered as networks hear them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.datasets import crops
from unlearn_jax.datasets import waveforms
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.types import InputError

LENGTHS = 5, 12, 9


def corpus(lengths=LENGTHS, same=False):
  rng = np.random.default_rng(0)
  audio = [rng.integers(-99, 99, n).astype(np.int16) for n in lengths]
  zeros = np.zeros(len(lengths), np.int32)
  return Corpus(
    'spoken',
    [{'audio': a} for a in audio],
    np.array([f'u{i}' for i in range(len(lengths))]),
    zeros,
    zeros,
    ('a', 'b'),
    ('s',),
    None,
    'f' * 64,
    num_samples=lengths[0] if same else None,
    lengths=np.array(lengths),
  )


def test_recordings_of_one_length_are_one_array():
  mine = corpus((4, 4, 4), same=True)
  made = waveforms.load(mine, 99)
  assert list(made) == ['waveform'] and made['waveform'].dtype == jnp.int16
  np.testing.assert_array_equal(made['waveform'], mine.read_audio(np.arange(3)))


def test_crops_end_in_silence_and_say_where():
  mine = corpus()
  made = waveforms.load(mine, 8)
  assert made['waveform'].shape == (3, 8) and made['samples'].shape == (3,)
  start = np.array([0, 3, 6])
  examples = crops.Examples(made).cropped(start)
  rows = jnp.array([[2, 0], [1, 1]])
  heard, counts = jax.jit(lambda e, r: (e['waveform'][r], e['samples'][r]))(
    examples, rows
  )
  assert heard.dtype == jnp.int16 and heard.shape == (2, 2, 8)
  np.testing.assert_array_equal(counts, [[3, 5], [8, 8]])
  for i in np.ndindex(2, 2):
    row = int(rows[i])
    audio = mine.source[row]['audio'][start[row] : start[row] + 8]
    want = np.pad(audio, (0, 8 - len(audio)))
    np.testing.assert_array_equal(heard[i], want)


def test_both_draw_the_same_crops():
  made = crops.Examples(waveforms.load(corpus(), 4), seed=(1,))
  for epoch in range(3):
    at = made.at(epoch)
    np.testing.assert_array_equal(at['waveform'].start, at['samples'].start)
  assert (made.at(0)['samples'].start != made.at(1)['samples'].start).any()


@pytest.mark.parametrize(
  ('bounds', 'message'),
  [
    ({'shortest': 6}, 'u0 must have at least 6 samples for this model, got 5'),
    ({'longest': 11}, 'u1 must have at most 11 samples for this model, got 12'),
  ],
)
def test_recordings_that_do_not_fit(bounds, message):
  with pytest.raises(InputError, match=message):
    waveforms.load(corpus(), 8, **bounds)
