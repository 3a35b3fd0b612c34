"""Downloads a small model by its name, from a hub of the test's own."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pretrained_folders
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
NAME, COMMIT = 'someone/small-hubert', 'c' * 40
READ = """
from unlearn_jax.models.pretrained import folder
try:
  read = folder.read({name!r})
  print(read.network.class_names, read.source)
except folder.InputError as error:
  print(error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
  """Answers what a client asks to download one model."""

  folder: pathlib.Path
  asked: list[str]

  def log_message(self, *args):
    pass

  def do_HEAD(self):  # noqa: N802
    self.do_GET()

  def do_GET(self):  # noqa: N802
    path = self.path.split('?')[0]
    files = sorted(p.name for p in self.folder.iterdir())
    if path == f'/api/models/{NAME}/revision/main':
      siblings = [{'rfilename': name} for name in [*files, 'training.zip']]
      about = {'id': NAME, 'sha': COMMIT, 'siblings': siblings}
      self.answer(json.dumps(about).encode(), 'application/json')
      return
    if path == f'/api/models/{NAME}/tree/{COMMIT}':
      tree = [
        {'type': 'file', 'path': name, 'size': 1, 'oid': 'd' * 40}
        for name in [*files, 'training.zip']
      ]
      self.answer(json.dumps(tree).encode(), 'application/json')
      return
    start, _, name = path.rpartition('/')
    if start == f'/{NAME}/resolve/{COMMIT}' and name in files:
      if self.command == 'GET':
        self.asked.append(name)
      self.answer((self.folder / name).read_bytes())
      return
    self.send_response(404)
    self.send_header('X-Error-Code', 'RepoNotFound')
    self.send_header('Content-Length', '0')
    self.end_headers()

  def answer(self, content, kind='application/octet-stream'):
    self.send_response(200)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(content)))
    self.send_header('X-Repo-Commit', COMMIT)
    self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(content)


@pytest.fixture
def hub(tmp_path):
  pretrained_folders.make(tmp_path / 'model', 'hubert_base')
  handler = type('OneHub', (Hub,), {'folder': tmp_path / 'model', 'asked': []})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield server, handler
  server.shutdown()
  thread.join()
  server.server_close()


def read(server, name, cache):
  """Reads a model in a process that knows this hub alone."""
  env = {
    **os.environ,
    'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
    'HF_HOME': str(cache),
    'HF_HUB_DISABLE_PROGRESS_BARS': '1',
    'PYTHONPATH': str(ROOT),
  }
  done = subprocess.run(
    [sys.executable, '-c', READ.format(name=name)],
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def test_models_are_downloaded_once(hub, tmp_path):
  server, handler = hub
  for _ in range(2):
    said = read(server, NAME, tmp_path / 'cache')
    assert "('word_0', 'word_1', 'word_2', 'word_3', 'word_4')" in said
    assert said.strip().endswith(NAME)
  assert sorted(handler.asked) == ['config.json', 'model.safetensors']


def test_a_name_that_the_hub_does_not_know(hub, tmp_path):
  said = read(hub[0], 'someone/else', tmp_path / 'cache').strip()
  assert said.startswith('someone/else: must be a folder or a name on the hub:')
  assert '\n' not in said
