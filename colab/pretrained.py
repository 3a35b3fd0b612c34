# %% [markdown]
# # Unlearning from a pretrained encoder
#
# A wav2vec 2.0, HuBERT or Whisper comes as a folder in Hugging Face format, is
# fine-tuned, forgets a speaker, and leaves as a folder that `transformers`
# opens. This notebook takes HuBERT-base where it can download it, and a small
# Whisper with fresh weights where it cannot. A TPU or GPU runtime is meant for
# the first; the second takes two minutes on two CPU cores.

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
  extras = 'audio,pretrained,synthetic'
  subprocess.run([*pip, f'{SOURCE}[{extras}]'], check=True)

# %% [markdown]
# JAX picks a TPU or a GPU by itself where the package for it is installed. If a
# GPU or TPU runtime shows a CPU here, install `jax[cuda13]` or `jax[tpu]` and
# restart the session.

# %%
import jax

print(f'{jax.default_backend().upper()}: {jax.devices()}')

# %% [markdown]
# ## Recordings
#
# The embedded corpus has ten keywords by twenty synthetic speakers. The request
# is to forget one of the speakers: their training recordings are the *forget
# set*, all others the *retain set*.

# %%
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import forget
from unlearn_jax.datasets import registry as corpora
from unlearn_jax.datasets import splits
from unlearn_jax.datasets import waveforms

TEMPORARY = pathlib.Path(tempfile.gettempdir())
CACHE = TEMPORARY / 'unlearn_jax'

corpus = corpora.load('espeak_commands', cache_dir=CACHE, progress=False)
examples = waveforms.load(corpus, crop_samples=16_000)
examples['label'] = jnp.asarray(corpus.keyword)
split = splits.split(corpus, 'utterance', seed=0)
speaker = corpus.speakers[0]
request = forget.parse(f'speaker:{speaker}')
forget_rows = forget.select(request, corpus, split.training, seed=0)
retain_rows = np.setdiff1d(split.training, forget_rows)
print(f'{len(forget_rows)} recordings to forget, {len(retain_rows)} to retain')

# %% [markdown]
# ## A model
#
# `folder.read` takes a folder, or a name on the hub. One that holds an encoder
# alone gets a fresh classifier for the classes at hand. `build` turns it into
# pure functions of parameters; on an accelerator the encoder computes in
# bfloat16.

# %%
from unlearn_jax.models.pretrained import folder
from unlearn_jax.models.pretrained.build import build
from unlearn_jax.models.pretrained.classifier import Network
from unlearn_jax.models.pretrained.folder import Pretrained
from unlearn_jax.models.pretrained.sizes import SIZES
from unlearn_jax.types import InputError

NAME = 'facebook/hubert-base-ls960'
small = {**SIZES['small-whisper'], 'id2label': dict(enumerate(corpus.keywords))}


def fresh():
  network = Network.read('small', small)
  params = jax.device_get(network.init(jax.random.key(0)))
  return Pretrained('small', network, params, True, small, {})


try:
  is_real = not SMALL and jax.default_backend() != 'cpu'
  model = folder.read(NAME, class_names=corpus.keywords) if is_real else fresh()
except InputError as error:
  print(error)
  model, is_real = fresh(), False

on_cpu = jax.default_backend() == 'cpu'
classifier = build(model, dtype=jnp.float32 if on_cpu else jnp.bfloat16)
size = sum(x.size for x in jax.tree.leaves(model.params))
print(f'{model.source}: {size / 1e6:.1f} million parameters')

# %% [markdown]
# ## Fine-tuning
#
# Training is a method, too: `descend` reads retain batches alone. The same call
# without the speaker is exact retraining.

# %%
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy
from unlearn_jax.training.step import descend

EPOCHS = 3 if is_real else 4 if SMALL else 20
RATE = 1e-4 if is_real else 3e-3
loss_fn = cross_entropy(classifier.predict_fn)


def train(rows, seed):
  rng = np.random.default_rng(seed)
  passes = [batches.one_pass(rows, 32, rng) for _ in range(EPOCHS)]
  stacked = batches.concatenate(passes, 32)
  rate = optax.warmup_cosine_decay_schedule(
    0.0, RATE, len(stacked.rows) // 10, len(stacked.rows)
  )
  method = descend(loss_fn, optax.adamw(rate))
  state = loop.init(method, model.params, jax.random.key(seed))
  return loop.run(method, state, None, stacked, examples)[0].params


original = train(split.training, seed=0)
retrained = train(retain_rows, seed=1)

# %% [markdown]
# Accuracy is counted in batches of one size, as all is that is compiled. The
# loss on the forget set moves before an accuracy does.

# %%
PARTS = {'forget': forget_rows, 'retain': retain_rows, 'test': split.test}


@jax.jit
def evaluate(params, rows):
  batch = {name: x[rows] for name, x in examples.items()}
  logits = classifier.predict_fn(params, batch)
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  return jnp.stack([logits.argmax(-1) == batch['label'], losses])


def show(name, params):
  values = []
  for part, rows in PARTS.items():
    padded = np.resize(rows, -(-len(rows) // 32) * 32).reshape(-1, 32)
    found = [evaluate(params, some) for some in padded]
    right, losses = np.hstack(found)[:, : len(rows)]
    values.append(f'{part} {right.mean():.3f}')
    if part == 'forget':
      values.append(f'(loss {losses.mean():.3f})')
  print(f'{name:20}', *values)


show('original', original)
show('retrain', retrained)

# %% [markdown]
# ## Unlearning
#
# Around any method, `lora:` moves additions of low rank to the kernels and
# `last_k:` the last blocks. What the method copies, a teacher for instance, and
# what its optimizer keeps, is then as small as what moves; the frozen rest lies
# in memory once. Learning rates of the presets are for small networks and are
# scaled by that of the training here.

# %%
from unlearn_jax.methods import registry
from unlearn_jax.methods.drive import unlearn
from unlearn_jax.methods.spec import Problem

problem = Problem(
  loss_fn,
  classifier.predict_fn,
  classifier.init_fn,
  input_name=classifier.input_name,
  blocks=classifier.blocks,
  embed_fn=classifier.embed_fn,
  embedding_size=model.network.projection,
  stacks=classifier.stacks,
  is_linear=classifier.is_linear,
)
unlearned = {}
for name in ('lora:neg_grad_plus', 'last_k:npo'):
  preset = registry.spec(name).preset_for('group').with_rate_scale(RATE / 1e-2)
  sets = forget_rows, retain_rows
  unlearned[name] = unlearn(
    name, problem, original, sets, examples, preset=preset
  )
  show(name, unlearned[name])

# %% [markdown]
# ## Out
#
# The folder holds `config.json` and `model.safetensors`;
# `transformers.AutoModelForAudioClassification.from_pretrained` opens it.

# %%
out = TEMPORARY / 'unlearned'
folder.write(out, model, unlearned['lora:neg_grad_plus'], overwrite=True)
print(sorted(path.name for path in out.iterdir()))
show('read again', folder.read(str(out)).params)
