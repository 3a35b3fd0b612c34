"""Pieces of work: each once, in order, whoever does them, whoever dies."""

import collections
import multiprocessing
import os
import signal
import time

import pytest

from experiments import cli
from experiments import work
from experiments.work import Piece


def make_pieces(folder, seconds=0.0, count=8):
  """Each adds a line to its log; the odd ones need the one before them."""

  def make(i):
    def run():
      with open(folder / f'log_{i}', 'a') as file:
        file.write(f'{os.getpid()}\n')
      time.sleep(seconds)
      (folder / f'made_{i}').touch()

    return run

  return [
    Piece(
      f'piece {i}',
      folder / f'made_{i}',
      make(i),
      (folder / f'made_{i - 1}',) if i % 2 else (),
    )
    for i in range(count)
  ]


def times_made(folder):
  return collections.Counter(
    len(path.read_text().splitlines()) for path in folder.glob('log_*')
  )


def do_slowly(folder, seconds):
  work.do(make_pieces(folder, seconds))


def test_each_is_done_once_and_after_what_it_needs(tmp_path):
  begun = []
  pieces = make_pieces(tmp_path)[::-1]  # Those that need come first.
  work.do(pieces, lambda mine, left: begun.append((mine[0].name, left)))
  names = [name for name, _ in begun]
  assert sorted(names) == sorted(piece.name for piece in pieces)
  for i in range(1, len(pieces), 2):
    assert names.index(f'piece {i - 1}') < names.index(f'piece {i}')
  work.do(pieces)  # Nothing is left.
  assert times_made(tmp_path) == {1: 8}


def test_two_processes_share_the_pieces(tmp_path):
  context = multiprocessing.get_context('spawn')
  others = [
    context.Process(target=do_slowly, args=(tmp_path, 0.1)) for _ in range(2)
  ]
  for other in others:
    other.start()
  for other in others:
    other.join(60)
    assert other.exitcode == 0
  assert times_made(tmp_path) == {1: 8}
  workers = {p.read_text().strip() for p in tmp_path.glob('log_*')}
  assert len(workers) == 2


def test_what_a_killed_process_held_is_done_by_another(tmp_path):
  context = multiprocessing.get_context('spawn')
  other = context.Process(target=do_slowly, args=(tmp_path, 60.0))
  other.start()
  deadline = time.monotonic() + 30
  while not (tmp_path / 'log_0').exists():
    assert time.monotonic() < deadline
    time.sleep(0.01)
  with work.claim(tmp_path / 'made_0') as mine:
    assert not mine
  os.kill(other.pid, signal.SIGKILL)
  other.join()
  work.do(make_pieces(tmp_path))
  assert times_made(tmp_path) == {2: 1, 1: 7}


def test_a_piece_that_cannot_be_done(tmp_path):
  piece = Piece('a', tmp_path / 'a', lambda: None, (tmp_path / 'b',))
  with pytest.raises(ValueError, match=r'^a needs .*/b, which nothing makes.$'):
    work.do([piece])
  with pytest.raises(RuntimeError, match=r'^a left no .*/a.$'):
    work.do([Piece('a', tmp_path / 'a', lambda: None)])


def test_many_mappings(tmp_path, monkeypatch):
  maps, limit = tmp_path / 'maps', tmp_path / 'limit'
  monkeypatch.setattr(cli, '_MAPPINGS', maps)
  monkeypatch.setattr(cli, '_MOST_MAPPINGS', limit)
  assert not cli.has_many_mappings()  # Not Linux.
  limit.write_text('20\n')
  for lines, want in ((5, False), (6, True)):
    maps.write_text('one\n' * lines)
    assert cli.has_many_mappings() is want


def test_pieces_of_one_kind_are_done_together(tmp_path):
  calls = []

  def make(mine):
    calls.append([piece.name for piece in mine])
    for piece in mine:
      piece.make()

  def kind(piece):
    number = int(piece.name.split()[1])
    return None if number == 6 else number % 2

  begun = []
  work.do(
    make_pieces(tmp_path),
    lambda mine, left: begun.append((len(mine), left)),
    work.Together(3, kind, make),
  )
  # An odd one waits for the one before it.
  assert calls == [
    ['piece 0', 'piece 2', 'piece 4'],
    ['piece 1', 'piece 3', 'piece 5'],
  ]
  assert begun == [(3, 8), (3, 5), (1, 2), (1, 1)]
  assert times_made(tmp_path) == {1: 8}


def test_what_another_holds_is_not_done_along(tmp_path):
  pieces = make_pieces(tmp_path)[::2]
  calls = []

  def make(mine):
    calls.append([piece.name for piece in mine])
    for piece in mine:
      piece.make()
    pieces[2].made.touch()  # The other is done too.

  with work.claim(pieces[2].made) as held:
    assert held
    work.do(pieces, None, work.Together(8, lambda piece: 'any', make))
  assert calls == [['piece 0', 'piece 2', 'piece 6']]
  assert not (tmp_path / 'log_4').exists()
