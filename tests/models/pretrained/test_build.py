"""A pretrained model as methods see it: parts, factors, blocks, embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pretrained_folders
import pytest

from unlearn_jax.methods import registry
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.part import last_k
from unlearn_jax.methods.spec import Problem
from unlearn_jax.models.embedding import map_embedding_fn
from unlearn_jax.models.pretrained.build import build
from unlearn_jax.models.pretrained.folder import Pretrained
from unlearn_jax.per_example.gradients import per_example_grads
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

SAMPLES = 1_600


def pretrained(name='hubert_large', seed=0):
  network = pretrained_folders.network(name)
  params = pretrained_folders.params(name, seed=seed)
  return Pretrained(name, network, params, True, {}, {})


def problem_of(name='hubert_large'):
  made = build(pretrained(name))
  problem = Problem(
    cross_entropy(made.predict_fn),
    made.predict_fn,
    made.init_fn,
    input_name=made.input_name,
    blocks=made.blocks,
    embed_fn=made.embed_fn,
    embedding_size=12,
    map_embedding_fn=map_embedding_fn(made.embedding, made.blocks[-1]),
    stacks=made.stacks,
    is_linear=made.is_linear,
  )
  return problem


@functools.cache
def batches(steps=2, size=3):
  rng = np.random.default_rng(steps)
  return {
    'waveform': jnp.asarray(
      rng.integers(-999, 999, (steps, size, SAMPLES)), jnp.int16
    ),
    'label': jnp.asarray(rng.integers(0, 5, (steps, size)), jnp.int32),
    'mask': jnp.ones((steps, size)),
  }


def run(name, **options):
  row, problem = registry.spec(name), problem_of()
  preset = row.preset
  method = row.build(
    problem, preset.optimizer(), **{**preset.options, **options}
  )
  params = jax.tree.map(jnp.asarray, pretrained().params)
  state = loop.init(method, params, jax.random.key(0))
  state, _ = loop.run(method, state, batches(), batches())
  return params, state


@pytest.mark.parametrize('kernels', ['layers/attention', ''])
def test_lora_moves_what_is_named_and_says_what_it_computed(kernels):
  before, state = run('lora:scrub', rank=2, kernels=kernels)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.params)
  assert moved['layers']['attention']['query']['kernel']
  assert moved['layers']['expand']['kernel'] == (not kernels)
  assert not moved['layers']['attention']['query']['bias']
  # The network with the products folded in is the network beside them.
  problem = problem_of()
  batch = jax.tree.map(lambda x: x[0], batches())
  folded = problem.predict_fn(state.params, batch)
  part = state.method_state
  seen = dict(part.frozen)
  if kernels:
    layers = dict(seen['layers'])
    layers['attention'] = {
      name: {
        **weights,
        'low_rank': (
          part.part[f'layers/attention/{name}/kernel'].a,
          8.0 * part.part[f'layers/attention/{name}/kernel'].b,
        ),
      }
      for name, weights in layers['attention'].items()
    }
    beside = problem.predict_fn({**seen, 'layers': layers}, batch)
    np.testing.assert_allclose(beside, folded, rtol=1e-4, atol=1e-5)


def test_last_k_cuts_the_stack():
  before, state = run('last_k:npo', last=3)
  moved = jax.tree.map(lambda a, b: (a != b).any(), before, state.params)
  assert moved['classifier']['kernel'] and moved['projector']['bias']
  assert moved['norm']['scale']  # Behind the layers of a large model.
  assert not any(jax.tree.leaves(moved['layers']))
  before, state = run('last_k:npo', last=4)
  kernels = before['layers']['expand'], state.params['layers']['expand']
  pairs = zip(*(k['kernel'] for k in kernels), strict=True)
  rows = [bool((a != b).any()) for a, b in pairs]
  assert rows == [False, True]


def test_gradients_of_examples_in_the_last_blocks_are_rows_of_all():
  seen = []

  def build_inner(problem, tx):
    seen.append(problem)
    return fine_tune(problem.loss_fn, tx)

  problem = problem_of()
  params = jax.tree.map(jnp.asarray, pretrained().params)
  method = last_k(build_inner, problem, optax.sgd(0.1), k=4)
  state = method.init(params, jax.random.key(0))
  batch = jax.tree.map(lambda x: x[0], batches())
  mine = per_example_grads(seen[-1].loss_fn, state.part, batch, microbatch=2)
  rows, leaves = len(batch['label']), jax.tree.leaves(mine)
  assert all(len(leaf) == rows for leaf in leaves)
  assert sum(leaf[0].size for leaf in leaves) == sum(
    leaf.size for leaf in jax.tree.leaves(state.part)
  )
  for i in range(rows):
    one = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
    whole = jax.grad(lambda p, one=one: problem.loss_fn(p, one)[0])(params)
    for path in ('classifier', 'kernel'), ('layers', 'expand', 'kernel'):
      got, want = mine, whole
      for key in path:
        got, want = got[key], want[key]
      np.testing.assert_allclose(
        got[i], want[-len(got[i]) :], rtol=1e-3, atol=1e-6
      )


@pytest.mark.parametrize('name', pretrained_folders.CONFIGS)
def test_layers_and_embeddings(name):
  made = build(pretrained(name))
  params = pretrained_folders.params(name)
  batch = {'waveform': batches()['waveform'][0]}
  layers = jax.jit(made.layers_fn)(params, batch)
  assert set(layers) == set(made.blocks)
  assert all(x.ndim == 2 and len(x) == 3 for x in layers.values())
  logits = made.predict_fn(params, batch)
  head = params['classifier']
  embedding = made.embed_fn(params, batch)
  np.testing.assert_allclose(
    embedding @ head['kernel'] + head['bias'][None],
    logits,
    rtol=1e-4,
    atol=1e-5,
  )


def test_maps_fold_into_the_projection():
  problem = problem_of()
  params = pretrained().params
  rng = np.random.default_rng(0)
  matrix = jnp.float32(rng.standard_normal((12, 12)))
  offset = jnp.float32(rng.standard_normal(12))
  folded = problem.map_embedding_fn(params, matrix, offset)
  batch = {'waveform': batches()['waveform'][0]}
  want = problem.embed_fn(params, batch) @ matrix + offset[None]
  np.testing.assert_allclose(
    problem.embed_fn(folded, batch), want, rtol=1e-3, atol=1e-4
  )


def test_a_fresh_model_has_the_encoder_it_starts_with():
  start = pretrained(seed=1)
  made = build(pretrained(), start=start)
  one, two = (made.init_fn(jax.random.key(k)) for k in (0, 1))
  for name in ('layers', 'conv_0', 'positions'):
    jax.tree.map(np.testing.assert_array_equal, one[name], start.params[name])
  assert (one['classifier']['kernel'] != two['classifier']['kernel']).all()
  drawn = build(pretrained()).init_fn(jax.random.key(0))
  assert (drawn['conv_0']['kernel'] != one['conv_0']['kernel']).all()
