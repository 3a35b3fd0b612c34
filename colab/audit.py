# %% [markdown]
# # Audit: is a recording still known?
#
# Accuracy cannot say whether a recording has been forgotten: a model that never
# saw it often gets it right, too. The question is whether someone who knows
# unlearned and retrained models can tell which kind a given model is. *U-LiRA*
# (Hayes et al., 2024) asks just that. For each recording there are two worlds:
#
# * *U*: models that were trained with the recording and then unlearned it;
# * *R*: models that never saw it.
#
# An attacker fits the confidence of the models on the recording in both worlds,
# and attributes other models by the likelihood ratio. An accuracy of 0.5 is
# chance, and what exact retraining gives.
#
# Worlds take many models. This notebook trains a population, lets every member
# forget a part of what it saw, and prints *metric cards* of
#
# * `original`: no unlearning, the attacker's best case,
# * `retrain`: a control, which should not be told apart,
# * `npo`: one method.
#
# It takes two minutes on two CPU cores.

# %% [markdown]
# ## Install
#
# `SOURCE` is a checkout of the project: the folder above this notebook, or the
# one that the variable `UNLEARN_JAX_SOURCE` names. On Colab, clone the
# repository into the session first and name that folder. Nothing is installed
# where `unlearn_jax` can be imported already.

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
# ## Recordings and a network
#
# The embedded corpus has ten keywords by twenty synthetic speakers. Log-mels
# are averaged to 14 frames of 70 ms. The network is a small time-delay network;
# any other will do, since all that follows sees `init_fn`, `predict_fn` and
# `loss_fn` alone.

# %%
import pathlib
import tempfile

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import registry as corpora
from unlearn_jax.datasets import splits
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.features.store import load_features
from unlearn_jax.training.losses import cross_entropy

CACHE = pathlib.Path(tempfile.gettempdir()) / 'unlearn_jax'

corpus = corpora.load('espeak_commands', cache_dir=CACHE, progress=False)
log_mel = np.float32(load_features(corpus, LogMelConfig(), CACHE))
log_mel = log_mel.reshape(len(corpus), 14, 7, 40).mean(2)
examples = {
  'features': jnp.asarray((log_mel - log_mel.mean()) / log_mel.std()),
  'label': jnp.asarray(corpus.keyword),
}
split = splits.split(corpus, 'utterance', seed=0)
training = split.training[::3] if SMALL else split.training


class KeywordSpotter(nn.Module):
  @nn.compact
  def __call__(self, x):  # [batch, frames, bins]
    width, frames = 5, x.shape[1]
    x = [x[:, i : frames - width + 1 + i] for i in range(width)]
    x = nn.relu(nn.Dense(32)(jnp.concatenate(x, -1))).max(1)
    x = nn.relu(nn.Dense(64)(x))
    return nn.Dense(10)(x)


def init_fn(key):
  return KeywordSpotter().init(key, examples['features'][:1])


def predict_fn(params, batch):
  return KeywordSpotter().apply(params, batch['features'])


loss_fn = cross_entropy(predict_fn)

# %% [markdown]
# ## A population
#
# `half_design` says who sees what: every recording is in the training sets of
# exactly half of the members. So each recording has members in both worlds, and
# each member stands in either world, of different recordings.
#
# The second argument names what goes in or out together; with the speaker of
# each recording in its place, the audit is of speakers.

# %%
import optax

from unlearn_jax.populations import design
from unlearn_jax.populations import train
from unlearn_jax.training.step import descend

MEMBERS = 32 if SMALL else 64

units = np.arange(len(training))  # Every recording by itself.
seen = design.half_design(MEMBERS, units, seed=0)
members = train.train_population(
  descend(loss_fn, optax.adamw(3e-3)),
  init_fn,
  [training[mine] for mine in seen],
  range(MEMBERS),
  examples,
  epochs=20 if SMALL else 40,
  batch_size=100,
)

# %% [markdown]
# All members are trained by one compiled program: one after another on a CPU,
# together on a GPU or TPU. `Execution(folder=...)` keeps finished members, so
# that the same call goes on after an interruption.
#
# ## Unlearning
#
# Every member forgets 30 % of what it saw, by NPO (negative preference
# optimization). `schedule.joint` lays out an epoch: one pass over the retain
# set, and beside it as many passes over the forget set as fit.

# %%
from unlearn_jax.methods import schedule
from unlearn_jax.methods.npo import npo

forgotten = design.forget_design(seen, units, fraction=0.3, seed=1)
kept = seen & ~forgotten


def member_batches(member, epoch):
  return schedule.joint(
    training[forgotten[member]],
    training[kept[member]],
    forget_batch=25,
    retain_batch=50,
    rng=np.random.default_rng([member, epoch]),
  )


unlearned = train.unlearn_population(
  npo(loss_fn, optax.adam(1e-3), beta=1.0, retain_weight=5.0),
  members,
  member_batches,
  range(MEMBERS),
  examples,
  epochs=5,
)

# %% [markdown]
# ## What the models say
#
# The attacker looks at the *logit confidence* of the true keyword,
# $\log p_y - \log(1 - p_y)$, of every member on every training recording.
# Accuracies tell what unlearning has cost.

# %%
from unlearn_jax.evaluation.ulira import logit_confidence
from unlearn_jax.populations import program

label = corpus.keyword


def ask(params, kept):
  logits = program.logits(predict_fn, params, examples)
  is_right = logits.argmax(-1) == label
  confidence = logit_confidence(logits[:, training], label[training])
  return confidence, {
    'accuracy.retain': (is_right[:, training] & kept).sum(1) / kept.sum(1),
    'accuracy.test': is_right[:, split.test].mean(1),
  }


never = ~seen
phi, utility = ask(members, seen)
phi_npo, utility_npo = ask(unlearned, kept)
for name, values in (
  ('original, trained on it', phi[seen]),
  ('original, never saw it', phi[never]),
  ('npo, unlearned it', phi_npo[forgotten]),
  ('npo, never saw it', phi_npo[never]),
):
  print(f'{name:24} mean confidence {values.mean():.2f}')

# %% [markdown]
# ## Metric cards
#
# `Worlds` takes confidences and who is in which world. World R of a method are
# members that ran it on *other* recordings: both worlds have been unlearned, so
# the attacker cannot go by traces of the method itself. The control deals the
# members that never saw a recording to two sides.
#
# No ideal is taken from theory. It is what a metric gives for members that
# never saw a recording against others that never saw it, drawn again and again.

# %%
from unlearn_jax.evaluation import worlds
from unlearn_jax.evaluation.population_cards import population_cards
from unlearn_jax.reporting import tables

judged = {
  'original': (worlds.Worlds(phi, seen, phi, never), utility),
  'retrain': (worlds.split(phi, never, np.random.default_rng(0)), utility),
  'npo': (worlds.Worlds(phi_npo, forgotten, phi_npo, never), utility_npo),
}
cards, attacks = [], {}
for name, (of, own) in judged.items():
  made, attacks[name] = population_cards(
    of,
    (phi, never),
    provenance={'method': name},
    utility={metric: (own[metric], utility[metric]) for metric in utility},
    repetitions=5 if SMALL else 20,
  )
  cards += made

SHOWN = (
  'accuracy.retain',
  'accuracy.test',
  'ulira.accuracy',
  'ulira.tpr_at_1e2',
  'confidence_gap',
)
print(tables.populations([c for c in cards if c.name in SHOWN]).to_text())

# %% [markdown]
# How to read it, from top to bottom:
#
# * *Accuracies*: has the method kept what it should? Where they fall by more
#   than three noise floors below retraining, every verdict is `damaged`.
# * `ulira.accuracy`: how often the attacker is right, balanced over the worlds.
#   The control stands at 0.5. If `original` did too, the attack would be too
#   weak to say anything of a method.
# * `ulira.tpr_at_1e2`: how many recordings the attacker finds while wrong about
#   one in a hundred: a few that are surely exposed matter more than many that
#   are a little.
# * `confidence_gap`: how much surer models are of what they unlearned than of
#   what they never saw. Below its ideal, too much was forgotten, which gives a
#   recording away as well.
#
# `under` is forgotten too little, `over` too much; `matches` is what a
# perfect method gets. `tables.populations(cards)` shows all metrics, among them
# KLoM and the forgetting score of the NeurIPS 2023 competition.
#
# ## Which recordings?
#
# An average hides the worst case. These are the recordings about which the
# attacker is right most often after unlearning. With so few models in a world
# such a list is a hint and no proof.

# %%
exposed = np.nan_to_num(attacks['npo'].example_accuracy)
for i in np.argsort(-exposed, kind='stable')[:5]:
  print(f'{corpus.utterance_id[training[i]]}: right in {exposed[i]:.0%}')

# %% [markdown]
# For a corpus of your own, `python -m experiments.kws_shadow` and
# `experiments.sid_shadow` do all this as jobs that resume, and write a report
# with ROC curves and the most exposed recordings to listen to.
