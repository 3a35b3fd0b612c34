# %% [markdown]
# # A tour of the methods, on a model of your own
#
# An unlearning method of `unlearn_jax` is a pair of pure functions, `init` and
# `update`, over a pytree of parameters. It sees a loss function, perhaps a
# predict function, and never a model object: any JAX model will do. This
# notebook
#
# 1. trains a keyword spotter, a `flax.linen` module that the library does not
#    know,
# 2. makes it forget a keyword by one update rule, in about twenty lines,
# 3. runs that rule at many settings as one program, by `jit` and `vmap`,
# 4. sets several methods beside exact retraining.
#
# It takes two minutes on two CPU cores.

# %% [markdown]
# ## Install
#
# `SOURCE` is a checkout of the project: the folder above this notebook, or the
# one that the variable `UNLEARN_JAX_SOURCE` names. On Colab, clone the
# repository into the session first and name that folder. Nothing is installed
# where `unlearn_jax` can be imported already. The extras `audio` and
# `synthetic` are for the corpus; the methods need neither.

# %%
import importlib.util
import os
import subprocess
import sys

SOURCE = os.environ.get('UNLEARN_JAX_SOURCE', '..')
SMALL = os.environ.get('UNLEARN_JAX_SMALL') == '1'  # For a quick check.

if importlib.util.find_spec('unlearn_jax') is None:
  pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
  subprocess.run([*pip, f'{SOURCE}[audio,synthetic]'], check=True)

# %% [markdown]
# JAX picks a TPU or a GPU by itself where the package for it is installed. If a
# GPU or TPU runtime shows a CPU here, install `jax[cuda13]` or `jax[tpu]` and
# restart the session.

# %%
import jax

print(f'{jax.default_backend().upper()}: {jax.devices()}')

# %% [markdown]
# ## Data
#
# The embedded corpus has ten keywords by twenty synthetic speakers. Log-mels
# are averaged to 14 frames of 70 ms, which keeps the network small.
#
# The request is to forget the keyword *stop*. Its training recordings are the
# *forget set*, all others the *retain set*.

# %%
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import forget
from unlearn_jax.datasets import registry as corpora
from unlearn_jax.datasets import splits
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.features.store import load_features

CACHE = pathlib.Path(tempfile.gettempdir()) / 'unlearn_jax'

corpus = corpora.load('espeak_commands', cache_dir=CACHE, progress=False)
log_mel = np.float32(load_features(corpus, LogMelConfig(), CACHE))
log_mel = log_mel.reshape(len(corpus), 14, 7, 40).mean(2)
examples = {
  'features': jnp.asarray((log_mel - log_mel.mean()) / log_mel.std()),
  'label': jnp.asarray(corpus.keyword),
}

split = splits.split(corpus, 'utterance', seed=0)
request = forget.parse('keyword:stop')
forget_rows = forget.select(request, corpus, split.training, seed=0)
retain_rows = np.setdiff1d(split.training, forget_rows)
print(f'{len(forget_rows)} recordings to forget, {len(retain_rows)} to retain')

# %% [markdown]
# ## A model
#
# The network is a time-delay layer, the maximum over time, and two dense
# layers. From here on no more is known of it than three functions: `init_fn`
# makes fresh parameters, `predict_fn` gives logits, `loss_fn` gives one loss an
# example.

# %%
from flax import linen as nn

from unlearn_jax.training.losses import cross_entropy


class KeywordSpotter(nn.Module):
  @nn.compact
  def __call__(self, x):  # [batch, frames, bins]
    width, frames = 5, x.shape[1]
    x = [x[:, i : frames - width + 1 + i] for i in range(width)]
    x = nn.relu(nn.Dense(64)(jnp.concatenate(x, -1))).max(1)
    x = nn.relu(nn.Dense(64)(x))
    return nn.Dense(10)(x)


def init_fn(key):
  return KeywordSpotter().init(key, examples['features'][:1])


def predict_fn(params, batch):
  return KeywordSpotter().apply(params, batch['features'])


loss_fn = cross_entropy(predict_fn)

# %% [markdown]
# A batch is a dict. What it holds is between you and `loss_fn`, but for one
# entry, the `mask`: 1 for an example, 0 for padding. A run takes stacked
# batches, arrays `[steps, batch, ...]`.


# %%
def batches(rows, steps, size, seed=0):
  drawn = np.random.default_rng(seed).choice(rows, (steps, size))
  stacked = {name: x[drawn] for name, x in examples.items()}
  return {**stacked, 'mask': jnp.ones(drawn.shape)}


# %% [markdown]
# Training has the shape of a method, too: `descend` reads retain batches alone.
# `loop.init` copies the parameters, `loop.run` scans `update` over all steps in
# one compiled program.
#
# The same call without the recordings of *stop* is *exact retraining*, the
# reference. Two retrained models show how much models differ that have both
# forgotten exactly: the *noise floor*.

# %%
import optax

from unlearn_jax.training import loop
from unlearn_jax.training.step import descend

STEPS = 400 if SMALL else 800
training = descend(loss_fn, optax.adamw(2e-3))


def train(rows, seed):
  key = jax.random.key(seed)
  state = loop.init(training, init_fn(key), key)
  state, _ = loop.run(training, state, None, batches(rows, STEPS, 100, seed))
  return state.params


original = train(split.training, seed=0)
retrained = [train(retain_rows, seed) for seed in (1, 2)]

# %% [markdown]
# Three accuracies tell whether a keyword is gone and the others are not.

# %%
is_stop = corpus.keyword[split.test] == corpus.keywords.index('stop')
PARTS = {
  'forget': forget_rows,
  'retain': retain_rows,
  'test of the others': split.test[~is_stop],
}


@jax.jit
def accuracies(params):
  right = predict_fn(params, examples).argmax(-1) == examples['label']
  return {part: right[rows].mean() for part, rows in PARTS.items()}


def show(name, params):
  found = accuracies(params).items()
  print(f'{name:10}', *(f'{part} {x:.3f} ' for part, x in found))


show('original', original)
show('retrain', retrained[0])

# %% [markdown]
# ## One update rule
#
# NPO (negative preference optimization) raises the loss of the forget set, ever
# less the further it has risen, and lowers that of the retain set. This is all
# that it takes:

# %%
from unlearn_jax.methods.npo import npo

forget_batches = batches(forget_rows, 60, 50)
retain_batches = batches(retain_rows, 60, 50)

method = npo(loss_fn, optax.adam(1e-3), beta=0.2, retain_weight=1.0)
state = loop.init(method, original, jax.random.key(3))
state, metrics = loop.run(method, state, forget_batches, retain_batches)

show('npo', state.params)
for step in (0, 10, 59):
  losses = {name: f'{values[step]:.3f}' for name, values in metrics.items()}
  print(f'step {step:2}:', losses)

# %% [markdown]
# If you have a training loop of your own, leave `loop` aside. `update` is a
# pure function of parameters, state, two batches and a key; `jit` it.


# %%
def batch_of(stacked, step):
  return {name: x[step] for name, x in stacked.items()}


update = jax.jit(method.update)
params, method_state = original, method.init(original, jax.random.key(3))
for step in range(10):
  params, method_state, losses = update(
    params,
    method_state,
    batch_of(forget_batches, step),
    batch_of(retain_batches, step),
    jax.random.fold_in(jax.random.key(4), step),
  )
show('ten steps', params)

# %% [markdown]
# ## Many settings at once
#
# Hyper-parameters that one would sweep are arrays in the state, not constants
# of the program: `beta` and `retain_weight` here, and the learning rate if
# `optax.inject_hyperparams` puts it there. So one program serves every value,
# and `vmap` of a whole run tries all of them together.

# %%
swept = npo(
  loss_fn,
  optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
  beta=0.2,
  retain_weight=1.0,
)


@jax.jit
@jax.vmap
def run_with(learning_rate):
  state = loop.init(swept, original, jax.random.key(3))
  state = optax.tree_utils.tree_set(state, learning_rate=learning_rate)
  state, _ = loop.run(swept, state, forget_batches, retain_batches)
  return accuracies(state.params)


rates = jnp.geomspace(1e-5, 1e-1, 5 if SMALL else 9)
found = run_with(rates)
for i, rate in enumerate(rates):
  values = (f'{part} {x[i]:.3f} ' for part, x in found.items())
  print(f'learning rate {rate:.1e}: ', *values)

# %% [markdown]
# The lowest rate leaves the keyword, the highest destroys the model, and
# *forget* alone cannot tell the best from the worst. `populations.sweep` does
# the same for every method of the registry, and `populations.search` looks for
# the best setting.

# %% [markdown]
# ## Several methods
#
# The registry knows each method by name: how to build it, how its batches are
# laid out, and its presets, one for single recordings (`preset`), one for whole
# classes (`class_preset`), as here, and one for speakers that are no class
# (`group_preset`). `drive.unlearn` runs one; its batches are arrays of rows of
# `examples`, which stay on the device.

# %%
from unlearn_jax.methods.drive import unlearn
from unlearn_jax.methods.spec import Problem

NAMES = ['fine_tune', 'gradient_ascent', 'npo', 'ssd']
if not SMALL:
  NAMES += ['neg_grad_plus', 'random_label', 'scrub', 'noisy_ascent']
problem = Problem(loss_fn, predict_fn, init_fn)
sets = forget_rows, retain_rows

models = {
  name: unlearn(name, problem, original, sets, examples, scope='class')
  for name in NAMES
}

# %% [markdown]
# `evaluate` sets models beside retrained ones, by every metric of one model. A
# predict function and parameters are enough, so the models may come from
# anywhere.

# %%
from unlearn_jax.evaluation.evaluate import evaluate
from unlearn_jax.reporting import tables

parts = {
  'forget': forget_rows,
  'retain': retain_rows,
  'validation': split.validation,
  'test': split.test,
}
cards = evaluate(
  predict_fn,
  models,
  {
    part: {name: x[rows] for name, x in examples.items()}
    for part, rows in parts.items()
  },
  retrained=retrained,
  original=original,
  forgotten_classes=[corpus.keywords.index('stop')],
)
print(tables.comparison(cards).to_text())

# %% [markdown]
# How to read it:
#
# * Each share is in percent, with half the width of its 95 % interval. Its
#   *ideal* is the value in the row `retrain`. Of a keyword that was never there
#   that is 0; of single recordings it would be near test accuracy.
# * *test forgotten* is the accuracy on test recordings of *stop*, which are no
#   part of *test*.
# * *avg gap* is the mean distance from retraining, in percentage points, of
#   forget, retain and test accuracy and of an attack that guesses membership.
# * *forgetting* is the verdict: `matches` within ideal and noise floor, `under`
#   forgotten too little, `over` too much, `damaged` where retain or test
#   accuracy is below the ideal by more than three noise floors. `collapsed`
#   models give one answer far too often; a keyword that is gone counts for
#   nothing there.
#
# The presets were found on other networks and corpora. What is `damaged` here
# may well match at a learning rate of its own: compare methods only where each
# had the same budget for the search.
#
# `python -m unlearn_jax.methods.table` lists all methods, what data they need
# and when to take them.
