# %% [markdown]
# # Quickstart: unlearn recordings and check it
#
# A keyword spotter was trained on recordings of which some must go. *Machine
# unlearning* changes the model so that it behaves as if it had never seen them.
# The reference is *exact retraining*: a fresh model, trained without them.
#
# This notebook runs the whole comparison as one job. It speaks a corpus of ten
# keywords by twenty synthetic speakers, trains a model, unlearns 5 % of its
# training recordings with eight methods, retrains without them, and sets all
# side by side. It takes two to three minutes on two CPU cores.

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
  subprocess.run([*pip, f'{SOURCE}[audio,report,synthetic]'], check=True)

# %% [markdown]
# JAX picks a TPU or a GPU by itself where the package for it is installed. If a
# GPU or TPU runtime shows a CPU here, install `jax[cuda13]` or `jax[tpu]` and
# restart the session. The question is put to a process of its own, since a TPU
# serves one process at a time and the job below is another.

# %%
QUESTION = 'import jax; print(jax.default_backend().upper(), jax.devices())'
print(subprocess.check_output([sys.executable, '-c', QUESTION], text=True))

# %% [markdown]
# ## Run the job
#
# In a terminal, from the checkout, it is
#
#     python -m experiments.kws_unlearn \
#       --flagfile=experiments/flagfiles/quickstart.cfg
#
# Everything goes to the folder `--workdir`. The same command goes on there
# after any interruption; of a finished job it prints the table again.

# %%
import pathlib
import tempfile

WORKDIR = pathlib.Path(tempfile.mkdtemp(prefix='unlearn_jax_'))
command = [
  sys.executable,
  '-m',
  'experiments.kws_unlearn',
  '--flagfile=experiments/flagfiles/quickstart.cfg',
  f'--workdir={WORKDIR}',
]
if SMALL:  # A hundred recordings: too few for results that mean anything.
  command += [
    '--dataset=espeak_commands/tiny',
    '--forget=sample:10%',
    '--methods=fine_tune,gradient_ascent',
    '--epochs=10',
    '--batch_size=10',
  ]

with subprocess.Popen(
  command,
  cwd=SOURCE,
  stdout=subprocess.PIPE,
  stderr=subprocess.STDOUT,
  text=True,
) as job:
  for line in job.stdout:
    print(line, end='')
if job.returncode:
  raise RuntimeError('the job failed: its last line says why')

# %% [markdown]
# ## Read the table
#
# * `original` is the model before unlearning, `retrain` the reference.
# * *forget*, *retain* and *test* are accuracies on the recordings to forget,
#   on the other training recordings and on recordings that no model saw.
#   Retraining still recognises most of the forget set, as it does most of the
#   test set: the goal for *forget* is the value in the row `retrain`, not 0.
# * *attack* is the share of the forget set that a membership inference attack
#   takes for recordings that the model never saw.
# * *avg gap* is the mean distance from retraining, in percentage points, of
#   forget, retain and test accuracy and of the attack. Lower is better, but two
#   retrained models differ too: the row `retrain` says by how much.
# * *times faster* is the run time of retraining over that of the method,
#   without compile time.
# * *forgetting* is the verdict on *forget*, see below.

# %% [markdown]
# ## Read a card
#
# Each number of the table is a *metric card*, a line of `records.jsonl`.

# %%
import dataclasses

from unlearn_jax.reporting import records
from unlearn_jax.reporting import tables

cards = records.read(WORKDIR / 'records.jsonl')
by_name = {(card.provenance['method'], card.name): card for card in cards}

card = by_name['fine_tune', 'accuracy.forget']
for field, value in dataclasses.asdict(card).items():
  print(f'{field:16} {value}')

# %% [markdown]
# * `value` has a 95 % interval from `ci_low` to `ci_high`: over recordings
#   where there is one seed (`wilson`), else over seeds (`t`).
# * `ideal` is what a perfect method would have, here the mean of the retrained
#   models, and `gap` the distance from it.
# * `noise_floor` is the 95th percentile of what two retrained models differ by.
#   Smaller gaps mean nothing.
# * `verdict` follows: `matches` inside the interval of the ideal widened by the
#   noise floor; `under` forgotten too little; `over` forgotten too much, which
#   gives a recording away as well; `damaged` where the model has collapsed or
#   lost accuracy that retraining keeps.
#
# The same for other metrics, a column a model. A word beside a value is its
# verdict, unless it matches.

# %%
SHOWN = (
  'accuracy.forget',
  'accuracy.test',
  'mia.loss_threshold.auc',
  'zrf',
  'average_gap',
)
shown = [card for card in cards if card.name in SHOWN]
print(tables.every_metric(shown).to_text())

# %% [markdown]
# No metric suffices alone. An attack on one model (`mia`) is weak evidence: a
# model that says the same keyword whatever it hears passes it. `zrf` says how
# much the answers resemble those of an untrained network; its goal is the value
# of retraining, no more. For a stronger attack see the notebook `audit`.
#
# ## Open the report
#
# The report has all metrics, plots, and recordings to listen to, in one file.
# On Colab, find it in the files panel and download it.

# %%
print(WORKDIR / 'report' / 'index.html')

# %% [markdown]
# Where to go from here: `--forget=keyword:stop` or `--forget=speaker:NAME`
# forgets a keyword or a person, `--methods=all` runs every method, and
# `--seeds=5` repeats everything, so that intervals are over seeds.
# `--dataset=audio_folder --data_dir=DIR` takes recordings of your own.
