"""Keyword spotting: corpus, features and network, and the sets of one seed."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.settings import Training
from unlearn_jax.datasets import forget as forget_lib
from unlearn_jax.datasets import registry as datasets
from unlearn_jax.datasets import splits
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.forget import ForgetRequest
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.features.store import load_features
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models import registry as models
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.types import Batch, Params

_PREDICT_BATCH = 250
_UNTRAINED = 10  # Networks for the zero retrain forgetting score.


class Task:
  """A corpus on the device and the network that reads it."""

  def __init__(
    self,
    training: Training,
    *,
    data_dir: str | None,
    cache_dir: pathlib.Path,
    audio_pattern: str | None = None,
    skip_bad_audio: bool = False,
    progress: bool = True,
  ):
    """Prepares the corpus and its features, or finds them prepared.

    Args:
      training: settings of the original model.
      data_dir: folder of the recordings; None for the embedded corpus.
      cache_dir: folder for what is prepared.
      audio_pattern: for an `audio_folder`.
      skip_bad_audio: leave out damaged recordings.
      progress: show progress bars.
    """
    self.training = training
    self.recipe = training.recipe()
    self.features = LogMelConfig()
    self.corpus: Corpus = datasets.load(
      training.dataset,
      cache_dir=cache_dir,
      data_dir=data_dir,
      skip_bad_audio=skip_bad_audio,
      pattern=audio_pattern,
      progress=progress,
    )
    features = load_features(self.corpus, self.features, cache_dir)
    self.classifier = models.build(
      training.model, len(self.corpus.keywords), features.shape[1:]
    )
    self.problem = Problem(
      loss_fn=cross_entropy(self.classifier.predict_fn),
      predict_fn=self.classifier.predict_fn,
      init_fn=self.classifier.init_fn,
      input_name=self.classifier.input_name,
      blocks=self.classifier.blocks,
    )
    self.examples: Batch = {
      'features': jnp.asarray(features),
      'label': jnp.asarray(self.corpus.keyword, jnp.int32),
    }
    self._predict = jax.jit(self._logits_of_rows)
    self._layers = jax.jit(self._layers_of_rows)

  def _logits_of_rows(self, params, examples, rows):
    batch = {name: x[rows] for name, x in examples.items()}
    return self.classifier.predict_fn(params, batch)

  def _layers_of_rows(self, params, examples, rows):
    batch = {name: x[rows] for name, x in examples.items()}
    return self.classifier.layers_fn(params, batch)

  def logits(self, params: Params, rows: np.ndarray) -> np.ndarray:
    """Returns the logits of `rows` of the corpus, [len(rows), classes]."""
    padded = np.zeros(-(-len(rows) // _PREDICT_BATCH) * _PREDICT_BATCH, int)
    padded[: len(rows)] = rows
    parts = [
      np.asarray(self._predict(params, self.examples, part))
      for part in padded.reshape(-1, _PREDICT_BATCH)
    ]
    classes = len(self.corpus.keywords)
    return np.concatenate([*parts, np.empty((0, classes))])[: len(rows)]

  def untrained_logits(self, rows: np.ndarray) -> np.ndarray:
    """Returns logits of networks as they begin, [networks, rows, classes]."""
    return np.stack(
      [
        self.logits(self.classifier.init_fn(jax.random.key(seed)), rows)
        for seed in range(_UNTRAINED)
      ]
    )

  def layers(self, params: Params, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of the network's blocks, [rows, channels]."""
    layers = self._layers(params, self.examples, jnp.asarray(rows))
    # A compiled function returns a dict in the order of its keys.
    return {name: np.asarray(layers[name]) for name in self.classifier.blocks}

  def description(self, split_seed: int) -> dict:
    """Returns what one must know to use a model: JSON can hold it."""
    return {
      'settings': dataclasses.asdict(self.training),
      'split_seed': split_seed,
      'keywords': list(self.corpus.keywords),
      'features': dataclasses.asdict(self.features),
      'corpus': self.corpus.name,
      'fingerprint': self.corpus.fingerprint,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """What one seed trains on, forgets and is tested on.

  Attributes:
    seed: of the run.
    split_seed: of the split; the seed of the original model.
    rows: rows of 'forget', 'retain', 'validation' and 'test'.
    subsets: labels of the same, for the evaluation.
    request: what to forget; '' is nothing.
  """

  seed: int
  split_seed: int
  rows: dict[str, np.ndarray]
  subsets: Subsets
  request: str = ''

  @property
  def training(self) -> np.ndarray:
    """Rows of the training set of the original model."""
    return np.union1d(self.rows['forget'], self.rows['retain'])


def make_cell(
  task: Task, request: ForgetRequest | None, seed: int, split_seed: int
) -> Cell:
  """Splits the corpus and selects the forget set.

  Args:
    task: the corpus.
    request: what to forget; None is nothing.
    seed: of the forget set.
    split_seed: of the split.

  Raises:
    InputError: if the split or the request does not fit the corpus.
  """
  corpus = task.corpus
  split = splits.split(corpus, task.training.split, seed=split_seed)
  forget = split.training[:0]
  forgotten: tuple[str, ...] = ()
  if request is not None:
    forget = forget_lib.select(request, corpus, split.training, seed=seed)
    forgotten = forget_lib.forgotten_keywords(request)
  rows = {
    'forget': forget,
    'retain': np.setdiff1d(split.training, forget),
    'validation': split.validation,
    'test': split.test,
  }
  subsets = Subsets(
    labels={name: corpus.keyword[r] for name, r in rows.items()},
    keywords=corpus.keywords,
    forgotten_classes=tuple(corpus.keywords.index(name) for name in forgotten),
    forget_hash=forget_lib.forget_hash(corpus.utterance_id[forget]),
    properties={'speaker': {n: corpus.speaker[r] for n, r in rows.items()}},
    untrained=task.untrained_logits(forget) if len(forget) else None,
  )
  return Cell(seed, split_seed, rows, subsets, str(request or ''))
