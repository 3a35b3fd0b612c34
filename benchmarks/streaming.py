r"""Trains on a corpus of VoxCeleb1's shape that stays on disk.

  python benchmarks/streaming.py

Simulates features of 153,516 utterances of 1,251 speakers, 4 to 20 s long (10
GB in a temporary folder), and trains a network by streaming crops of them for
`--share` of an epoch: prints what memory it takes, utterances a second, and the
share of the time spent waiting for data. Then trains on as much of the corpus
as fits the device, on the device and by streaming: the losses must be the same
to the last bit.
"""

import pathlib
import tempfile
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from unlearn_jax.datasets import batches
from unlearn_jax.datasets.crops import Examples
from unlearn_jax.datasets.streaming import Stream
from unlearn_jax.features.utterances import Utterances
from unlearn_jax.features.utterances import write_records
from unlearn_jax.methods import registry as methods
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models import registry as models
from unlearn_jax.training import fit as fit_lib
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.recipe import Recipe
from unlearn_jax.training.recipe import set_total_steps

_UTTERANCES = flags.DEFINE_integer(
  'utterances', 153_516, 'Simulated utterances.', 100
)
_SPEAKERS = flags.DEFINE_integer('speakers', 1_251, 'Simulated speakers.', 2)
_SHARE = flags.DEFINE_float('share', 1.0, 'Of an epoch.', 0.0, 1.0)
_FITS = flags.DEFINE_integer(
  'fits', 4_000, 'Utterances to train on from the device too.', 100
)
_CROP_S = flags.DEFINE_float('crop_s', 3.0, 'Length of a crop.', 0.1)
_BATCH = flags.DEFINE_integer('batch', 100, 'Utterances a step.', 1)
_AHEAD = flags.DEFINE_integer('ahead', 2, 'Calls read ahead.', 1)
_WORKERS = flags.DEFINE_integer(
  'workers', 0, 'Processes that read; 0 is threads.', 0
)
_REPORT_EVERY = flags.DEFINE_integer(
  'report_every', 160, 'Steps between two reports of memory.', 1
)
_FOLDER = flags.DEFINE_string(
  'folder', None, 'Where the temporary folder is made; the default is /tmp.'
)

BINS, FRAMES_A_SECOND = 40, 100


def simulate(folder: pathlib.Path) -> tuple[Utterances, np.ndarray]:
  """Writes utterances and returns them with the speaker of each."""
  rng = np.random.default_rng(0)
  count = _UTTERANCES.value
  # VoxCeleb1's utterances last 8.2 s in the mean, and at least 4.
  seconds = np.minimum(20.0, 4.0 + rng.exponential(4.3, count))
  frames = (seconds * FRAMES_A_SECOND).astype(int)
  speaker = rng.integers(0, _SPEAKERS.value, count).astype(np.int32)
  noise = rng.normal(-8.0, 2.0, (100_000, BINS)).astype(np.float32)
  voice = rng.normal(0.0, 1.0, (_SPEAKERS.value, BINS)).astype(np.float32)

  def utterances():
    for i in tqdm.trange(count, desc='Simulating', disable=None):
      first = int(rng.integers(0, len(noise) - frames[i]))
      yield noise[first : first + frames[i]] + voice[speaker[i]]

  path = folder / 'features.array_record'
  start = time.perf_counter()
  write_records(path, utterances())
  seconds_to_write = time.perf_counter() - start
  made = Utterances(path, frames, BINS)
  print(
    f'{count} utterances, {frames.mean() / FRAMES_A_SECOND:.2f} s in the mean: '
    f'{path.stat().st_size / 1e9:.3f} GB on disk, features alone '
    f'{made.nbytes / 1e9:.3f}, written in {seconds_to_write:.0f} s'
  )
  return made, speaker


def resident_bytes() -> dict[str, int]:
  """Returns resident memory of this process and its children, by kind."""
  waiting, total = ['self'], dict.fromkeys(('RssAnon', 'RssFile'), 0)
  total['RssShmem'] = 0
  while waiting:
    process = pathlib.Path('/proc') / waiting.pop()
    try:
      for line in (process / 'status').read_text().splitlines():
        name, _, value = line.partition(':')
        if name in total:
          total[name] += int(value.split()[0]) * 1024
      for task in (process / 'task').iterdir():
        waiting += (task / 'children').read_text().split()
    except FileNotFoundError:
      continue  # It has ended.
  return total


class Watched(fit_lib.Program):
  """Prints the memory in use every so many steps."""

  peak = 0
  num_calls = 0

  def __call__(self, *args):
    result = super().__call__(*args)
    self.num_calls += 1
    kinds = resident_bytes()
    self.peak = max(self.peak, sum(kinds.values()))
    steps = self.num_calls * fit_lib.STEPS_PER_CALL
    if not steps % max(_REPORT_EVERY.value, fit_lib.STEPS_PER_CALL):
      text = ', '.join(f'{k} {v / 2**30:.3f}' for k, v in kinds.items())
      print(f'step {steps}: {sum(kinds.values()) / 2**30:.3f} GiB ({text})')
    return result


class Trainer:
  """A network that tells the speakers apart."""

  def __init__(self):
    """Builds the network; compiles nothing yet."""
    self.crop_frames = round(_CROP_S.value * FRAMES_A_SECOND)
    network = models.build(
      'tc_resnet8', _SPEAKERS.value, (self.crop_frames, BINS)
    )
    problem = Problem(
      cross_entropy(network.predict_fn), network.predict_fn, network.init_fn
    )
    self.recipe = Recipe(epochs=1, batch_size=_BATCH.value)
    self.program = Watched(
      methods.spec('retrain').build(
        problem,
        self.recipe.optimizer(),
        augment_fn=self.recipe.augment_fn(1_000 / FRAMES_A_SECOND),
      )
    )
    self.params = network.init_fn(jax.random.key(0))

  def examples(self, utterances, speaker, *, stream):
    """Returns what `fit` takes, from disk or on the device."""
    label = jnp.asarray(speaker[: len(utterances)])
    if stream:
      arrays = {'features': utterances.on_disk(self.crop_frames)}
      options = {'ahead': _AHEAD.value, 'workers': _WORKERS.value}
      return Stream({**arrays, 'label': label}, (0,), **options)
    arrays = {'features': utterances.crops(self.crop_frames), 'label': label}
    return Examples(arrays, (0,))

  def fit(self, examples, epochs, share=1.0):
    """Trains; prints how fast, and returns state and progress."""
    rows = np.arange(len(examples.arrays['label']))
    state = loop.init(self.program.method, self.params, jax.random.key(1))
    state = set_total_steps(state, epochs * self.recipe.steps(len(rows)))

    def epoch_batches(epoch):
      rng = np.random.default_rng(epoch)
      whole = batches.one_pass(rows, _BATCH.value, rng)
      steps = int(np.ceil(share * len(whole.rows)))
      return None, batches.IndexBatches(whole.rows[:steps], whole.mask[:steps])

    result = fit_lib.fit(self.program, state, epochs, epoch_batches, examples)
    done = result.progress
    seconds = done.run_s + done.wait_s
    losses = ', '.join(f'{x:.3f}' for x in done.curves['train_retain_loss'])
    print(
      f'{done.steps} steps, {seconds:.1f} s: {done.examples / seconds:.0f} '
      f'utterances a second, {done.wait_s / seconds:.1%} of the time waiting '
      f'for data; mean loss of each epoch {losses}'
    )
    return result


def same(first, second) -> bool:
  """Says whether two runs gave the same, bit for bit."""
  pairs = zip(
    jax.tree.leaves((first.state.params, first.progress.curves)),
    jax.tree.leaves((second.state.params, second.progress.curves)),
    strict=True,
  )
  return all(np.array_equal(a, b) for a, b in pairs)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]}: there are no positional arguments.')
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as name:
    utterances, speaker = simulate(pathlib.Path(name))
    trainer = Trainer()
    print(f'\nStreaming {_SHARE.value:.1%} of an epoch of the whole:')
    stream = trainer.examples(utterances, speaker, stream=True)
    trainer.fit(stream, 1, _SHARE.value)
    print(f'peak resident memory {trainer.program.peak / 2**30:.3f} GiB')

    count = min(_FITS.value, len(utterances))
    few = Utterances(utterances.path, utterances.num_frames[:count], BINS)
    print(f'\n{count} utterances on the device, then streamed, twice each:')
    results = [
      trainer.fit(trainer.examples(few, speaker, stream=stream), 2)
      for stream in (False, True, False, True)
    ]
    identical = all(same(results[0], other) for other in results[1:])
    print(f'losses and parameters are identical: {identical}')


if __name__ == '__main__':
  app.run(main)
