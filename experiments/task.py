"""A task: corpus, features and network."""

import dataclasses
import functools
import pathlib
from typing import cast

import jax
import numpy as np

from experiments import data
from experiments import pretrained
from experiments import pretrained_flags
from experiments.training import Training
from unlearn_jax.datasets import registry as datasets
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.trials import read_trials
from unlearn_jax.datasets.trials import Trials
from unlearn_jax.features.log_mel import log_mel
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models import registry as models
from unlearn_jax.models.embedding import map_embedding_fn
from unlearn_jax.training.layout import Layout
from unlearn_jax.training.piecewise import in_pieces
from unlearn_jax.types import AugmentFn, Batch, InputError, Params

_UNTRAINED = 10  # Networks for the zero retrain forgetting score.


class Task:
  """A corpus on the device and the network that reads it.

  Attributes:
    training: settings of the original model.
    corpus: its recordings and what is known of them.
    label: [n] int32, keyword or speaker of each.
    class_names: of the labels.
    classifier: the network.
    problem: what methods may know of it.
    data: features or waveforms, and labels.
    pretrained: the model in Hugging Face format; None for a network by name.
    device_layout: on several devices; None is one device.
    trials: of verification, which the user gave; None if there are none.
  """

  def __init__(
    self,
    training: Training,
    *,
    data_dir: str | None,
    cache_dir: pathlib.Path,
    audio_pattern: str | None = None,
    skip_bad_audio: bool = False,
    where: str = 'auto',
    workers: int = 0,
    trials: str | None = None,
    device_layout: Layout | None = None,
    progress: bool = True,
  ):
    """Prepares the corpus and its features, or finds them prepared.

    Args:
      training: settings of the original model.
      data_dir: folder of the recordings; None for the embedded corpus.
      cache_dir: folder for what is prepared.
      audio_pattern: for an `audio_folder`.
      skip_bad_audio: leave out damaged recordings.
      where: features of varying length lie, see `data.Reading`.
      workers: that read them, likewise.
      trials: a list of verification trials.
      device_layout: on several devices; None is one device.
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
    self.trials: Trials | None = None
    if trials is not None:
      self.trials = read_trials(trials, self.corpus.utterance_id)
    self.label, self.class_names = self.corpus.labels(training.task)
    self.pretrained: pretrained.Opened | None = None
    self.data: data.Data
    self.classifier: models.Classifier
    reading = data.Reading(
      training.crop_ms,
      training.score_crops,
      where,
      workers,
      training.length_buckets,
    )
    if pretrained_flags.is_named(training.model):
      self._open_pretrained(reading)
    else:
      self._build_network(reading, cache_dir)
    self.device_layout = device_layout
    if device_layout is not None:
      examples = device_layout.replicated(self.data.examples)
      self.data = dataclasses.replace(self.data, examples=examples)
    like = jax.eval_shape(self.classifier.init_fn, jax.random.key(0))
    embedding = jax.eval_shape(
      _on_rows(self.classifier.embed_fn), like, self.examples, np.zeros(1, int)
    )
    size = training.microbatch
    predict_fn = in_pieces(self.classifier.predict_fn, size)
    self.problem = Problem(
      loss_fn=training.loss_fn(predict_fn, self.classifier.logit_scale),
      predict_fn=predict_fn,
      init_fn=self.classifier.init_fn,
      input_name=self.classifier.input_name,
      blocks=self.classifier.blocks,
      embed_fn=in_pieces(self.classifier.embed_fn, size),
      embedding_size=embedding.shape[-1],
      map_embedding_fn=map_embedding_fn(
        self.classifier.embedding, self.classifier.blocks[-1]
      ),
      stacks=self.classifier.stacks,
      is_linear=self.classifier.is_linear,
    )
    self._predict = _on_rows(self.classifier.predict_fn)
    self._embed = _on_rows(self.classifier.embed_fn)
    self._layers = _on_rows(self.classifier.layers_fn)

  def _build_network(self, reading, cache_dir):
    """Computes features, and builds the network that reads them."""
    training = self.training
    if training.length_buckets:
      raise InputError(
        f'--length_buckets: must not be given with --model={training.model}, '
        'which reads crops of one length.'
      )
    self.data = data.load(
      self.corpus,
      self.label,
      self.features,
      cache_dir,
      reading,
      cast(data.Frames, training.frames),
    )
    _check_augmentation(training, self.features, self.data.input_shape)
    self.classifier = models.build(
      training.model,
      len(self.class_names),
      self.data.input_shape,
      head=training.head,
    )

  def _open_pretrained(self, reading):
    """Reads a model, and recordings as it hears them."""
    training = self.training
    if training.frames != 'ordered':
      raise InputError(
        f'--frames={training.frames}: must be ordered for a model that reads '
        'waveforms.'
      )
    if training.length_buckets and training.dp_max_norm is not None:
      raise InputError(
        '--length_buckets: must not be given with --dp_max_norm, whose account '
        'is of batches at random.'
      )
    self.pretrained = opened = pretrained.open_model(training, self.class_names)
    self.classifier = opened.classifier
    self.data = data.load_waveforms(
      self.corpus, self.label, opened.front_end, opened.shortest, reading
    )

  def augment_fn(self) -> AugmentFn:
    """Returns what changes the inputs of a batch in training."""
    if self.data.input_name == 'waveform':
      return self.recipe.augment_waveform_fn(self.corpus.sample_rate_hz)
    return self.recipe.augment_fn(self.features.hop_ms)

  def picture(self, row: int) -> np.ndarray:
    """Returns the log-mels of a recording, [frames, bins] float32."""
    if self.data.input_name == 'features':
      return np.asarray(self.examples['features'][np.asarray(row)], np.float32)
    audio = self.corpus.read_utterances(np.array([row]))[0]
    return np.asarray(log_mel(audio, self.features))

  @property
  def examples(self) -> Batch:
    """Returns features and labels, to be indexed by rows of the corpus."""
    return self.data.examples

  def logits(self, params: Params, rows: np.ndarray) -> np.ndarray:
    """Returns the logits of `rows` of the corpus, [len(rows), classes]."""
    found = self.data.score(
      functools.partial(self._predict, self._placed(params)), rows
    )
    return found.reshape(len(rows), len(self.class_names))

  def embeddings(self, params: Params, rows: np.ndarray) -> np.ndarray:
    """Returns the embeddings of `rows` of the corpus, [len(rows), d]."""
    found = self.data.score(
      functools.partial(self._embed, self._placed(params)), rows
    )
    return found.reshape(len(rows), self.problem.embedding_size)

  def _placed(self, params):
    """Returns parameters as they lie on several devices."""
    return self.device_layout.state(params) if self.device_layout else params

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
    layers = self._layers(self._placed(params), self.examples, np.asarray(rows))
    # A compiled function returns a dict in the order of its keys.
    return {name: np.asarray(layers[name]) for name in self.classifier.blocks}

  def description(self, split_seed: int) -> dict:
    """Returns what one must know to use a model: JSON can hold it."""
    return {
      'settings': dataclasses.asdict(self.training),
      'split_seed': split_seed,
      'classes': list(self.class_names),
      'features': dataclasses.asdict(self.features),
      'corpus': self.corpus.name,
      'fingerprint': self.corpus.fingerprint,
    }


def _check_augmentation(training, features, input_shape):
  """Raises an InputError where an augmentation is larger than an example."""
  frames, bins = input_shape
  longest = frames * features.hop_ms
  for name, most in (
    ('max_shift_ms', longest),
    ('time_mask_ms', longest),
    ('frequency_mask_bins', bins),
  ):
    value = getattr(training, name)
    if value > most:
      raise InputError(
        f'--{name}={value:g}: must be at most {most:g} for examples of '
        f'{frames} frames and {bins} bins.'
      )


def _on_rows(fun):
  """Returns fun(params, batch) as a compiled fun(params, examples, rows)."""

  def on_rows(params, examples, rows):
    return fun(params, {name: x[rows] for name, x in examples.items()})

  return jax.jit(on_rows)
