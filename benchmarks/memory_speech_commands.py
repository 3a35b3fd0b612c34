r"""Measures peak memory of preparing and training on the full Speech Commands.

  python benchmarks/memory_speech_commands.py --epochs=1

Simulates the unpacked archive, 105,829 files of 35 words by 2,618 speakers
with the official lists (3.4 GB in a temporary folder, and as much again for
what is prepared), then runs `experiments.kws_train` on it in a process of its
own, whose peak resident memory it prints.
"""

import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import numpy as np
import soundfile
import tqdm

_CLIPS = flags.DEFINE_integer('clips', 105_829, 'Simulated clips.', 1_000)
_EPOCHS = flags.DEFINE_integer('epochs', 1, 'Passes over the training set.', 1)
_FOLDER = flags.DEFINE_string(
  'folder', None, 'Where the temporary folder is made; the default is /tmp.'
)

WORDS = (
  'backward bed bird cat dog down eight five follow forward four go happy '
  'house learn left marvin nine no off on one right seven sheila six stop '
  'three tree two up visual wow yes zero'
).split()
SPEAKERS = 2_618
# Shares of the official split.
VALIDATION, TEST = 9_981 / 105_829, 11_005 / 105_829


def simulate(folder: pathlib.Path, clips: int) -> None:
  """Writes files in the layout of the unpacked archive."""
  rng = np.random.default_rng(0)
  noise = (rng.standard_normal(160_000) * 1_000).astype(np.int16)
  lists: dict[str, list[str]] = {'validation': [], 'testing': []}
  for word in WORDS:
    (folder / word).mkdir(parents=True)
  for i in tqdm.tqdm(range(clips), 'Simulating', disable=None):
    speaker = i % SPEAKERS
    take = i // (SPEAKERS * len(WORDS))
    word = WORDS[(i // SPEAKERS + speaker) % len(WORDS)]
    path = f'{word}/{speaker:08x}_nohash_{take}.wav'
    start = int(rng.integers(0, len(noise) - 16_000))
    soundfile.write(folder / path, noise[start : start + 16_000], 16_000)
    if speaker < VALIDATION * SPEAKERS:
      lists['validation'].append(path)
    elif speaker < (VALIDATION + TEST) * SPEAKERS:
      lists['testing'].append(path)
  for name, paths in lists.items():
    text = ''.join(f'{path}\n' for path in paths)
    (folder / f'{name}_list.txt').write_text(text)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as name:
    folder = pathlib.Path(name)
    simulate(folder / 'corpus', _CLIPS.value)
    start = time.perf_counter()
    subprocess.run(
      [
        sys.executable,
        '-m',
        'experiments.kws_train',
        '--dataset=speech_commands',
        '--split=official',
        f'--data_dir={folder / "corpus"}',
        f'--cache_dir={folder / "cache"}',
        f'--workdir={folder / "workdir"}',
        f'--epochs={_EPOCHS.value}',
      ],
      check=True,
    )
    seconds = time.perf_counter() - start
  peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  print(
    f'{_CLIPS.value} clips, {_EPOCHS.value} epochs: {seconds:.0f} s, peak '
    f'resident memory {peak_kib / 2**20:.2f} GiB'
  )


if __name__ == '__main__':
  app.run(main)
