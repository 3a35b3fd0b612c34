"""What every row of the registry must do, whatever its rule is."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.registry import METHODS
from unlearn_jax.methods.registry import spec
from unlearn_jax.training import loop

WRAPPED = (
  'lora:random_label',
  'superloss:neg_grad_plus',
  'saliency:npo',
  'rewind:npo',
  'last_k:scrub',
  'head:npo',
)
ROWS = (*METHODS, *WRAPPED)
# Rules that make their edit in `prepare` and take no steps.
EDITS = tuple(
  n for n in ROWS if (preset := spec(n).preset) and preset.epochs == 0
)
STEPS = 4
# Rules that draw numbers leaf by leaf: the order of leaves decides which.
DRAWS_BY_LEAF = ('noisy_ascent', 'fisher_forgetting')

# Settings that make every option count on so small a problem.
SETTINGS = {
  'l1_sparse': {'penalty': 0.05},
  'eu_k': {'k': 1},
  'cf_k': {'k': 1},
  'noisy_ascent': {'noise': 0.1, 'max_norm': 0.5, 'expected_batch': 5},
  'ssd': {'threshold': 1.0, 'dampening': 0.5},
  'lfssd': {'threshold': 1.0, 'dampening': 0.5},
  'fisher_forgetting': {'noise': 1e-4, 'max_std': 0.2},
  'influence': {
    'damping': 0.1,
    'weight_decay': 0.05,
    'max_step_norm': 0.3,
    'samples': 8,
  },
  'lora:random_label': {'rank': 2},
  'last_k:scrub': {'last': 1},
}
# Bounds that need not be reached, and a step size that the bound overrides.
MAY_IDLE = {
  ('l1_sparse', 'learning_rate'),
  ('l1_sparse', 'total_steps'),
  ('l1_sparse', 'free_fraction'),
  ('fisher_forgetting', 'offset'),
  ('influence', 'tolerance'),
  ('influence', 'step'),
  ('influence', 'max_iterations'),
}


def named(rows):
  """Test names say which row they are of: `pytest -k npo`."""
  return [(f'_{name}', name) for name in rows]


_step = jax.jit(loop.step, static_argnames='method')


@functools.cache
def _make(name, model):
  row = spec(name)
  tx = optax.inject_hyperparams(
    P.sgd, static_args=('momentum', 'weight_decay')
  )(learning_rate=0.1, momentum=0.9, weight_decay=0.1)
  convert, predict_fn, blocks = MODELS[model]()
  problem = P.make_problem(convert, predict_fn, blocks=blocks)
  options = dict(row.preset.options) if row.preset else {}
  return row.build(problem, tx, **{**options, **SETTINGS.get(name, {})})


def make(name, model='plain'):
  """The method of a row, its learning rate in the state, with weight decay.

  Tests, and rows of the same rule, share one object and its compiled programs.
  """
  rule = (spec(name).build, spec(name).preset)
  same = [n for n in ROWS if (spec(n).build, spec(n).preset) == rule]
  return _make(same[0], model)


@functools.cache
def stacks(name, seed=0):
  """Forget and retain batches as the row lays them out, None if not needed."""
  row = spec(name)
  alternates = row.layout == 'alternate'
  forget = P.make_batches(2 * seed + 1, 2, 5, padding=1)
  retain = P.make_batches(2 * seed + 2, 2, 7, padding=2)
  if name in EDITS:
    order = ([0, 1], [0, 1])
  elif alternates:
    order = ([0, 1, -1, -1], [-1, -1, 0, 1])
  elif name == 'unsir':  # Its last steps repair.
    order = ([0, 1, -1, -1], [0, 1, 0, 1])
  else:
    order = ([0, 1, 1, 0], [0, 1, 0, 1])
  forget, retain = P.steps_of(forget, order[0]), P.steps_of(retain, order[1])
  return (
    forget if 'forget' in row.needs else None,
    retain if 'retain' in row.needs else None,
  )


def start(method, params, key, forget, retain, **hyper):
  state = set_hyper(loop.init(method, params, key), **hyper)
  if method.prepare is not None:
    state = loop.prepare(method, state, forget, retain)
  return state


def set_hyper(state, **hyper):
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  return optax.tree_utils.tree_set(state, **arrays) if hyper else state


def run(name, *stacked, model='plain', params=None, key=0, **hyper):
  method, stacked = make(name, model), stacked or stacks(name)
  params = MODELS[model]()[0](P.make_params()) if params is None else params
  state = start(method, params, jax.random.key(key), *stacked, **hyper)
  return loop.run(method, state, *stacked)


def run_many(method, params, keys, hyper, *stacked):
  """The vmap of a run, over one key and one set of hyper-parameters each."""
  state = jax.vmap(
    lambda key, values: set_hyper(loop.init(method, params, key), **values)
  )(keys, hyper)
  if method.prepare is not None:
    state = jax.vmap(lambda s: loop.prepare(method, s, *stacked))(state)
  return jax.vmap(lambda s: loop.run(method, s, *stacked))(state)


def hyper_of(state):
  """Hyper-parameters in a state, wherever they stand, by name."""
  found = {}

  def visit(node):
    if isinstance(node, loop.RunState):
      visit(node.method_state)
    elif isinstance(node, dict):
      for child in node.values():
        visit(child)
    elif isinstance(node, tuple):
      values = getattr(node, 'hyper', None) or {}
      found.update({k: float(v) for k, v in values.items()})
      if 'learning_rate' in getattr(node, 'hyperparams', {}):
        found['learning_rate'] = 0.1
      for child in node:
        visit(child)

  visit(state)
  return found


class Flipped(nn.Module):
  """The plain function; its leaves stand in the other order."""

  @nn.compact
  def __call__(self, x):
    zeros = nn.initializers.zeros
    kernel = self.param('a_kernel', zeros, (P.FEATURES, P.CLASSES))
    return x @ kernel + self.param('z_bias', zeros, (P.CLASSES,))[None]


def plain():
  return lambda params: params, P.predict_fn, ('bias', 'kernel')


def half():
  """In bfloat16 but for the bias, in lists and tuples."""

  def convert(params):
    return [params['kernel'].astype(jnp.bfloat16), ({'b': params['bias']},)]

  def predict_fn(params, batch):
    features = batch['features'].astype(jnp.bfloat16)
    bias = params[1][0]['b'].astype(jnp.bfloat16)
    return features @ params[0] + bias[None]

  return convert, predict_fn, ('1', '0')


def linen():
  def convert(params):
    return {'params': {'a_kernel': params['kernel'], 'z_bias': params['bias']}}

  blocks = ('params/z_bias', 'params/a_kernel')
  return convert, lambda p, b: Flipped().apply(p, b['features']), blocks


def nnx_linear():
  model = nnx.Linear(P.FEATURES, P.CLASSES, rngs=nnx.Rngs(0))
  graph, tree = nnx.split(model)
  structure = jax.tree.structure(tree)

  def convert(params):
    return jax.tree.unflatten(structure, jax.tree.leaves(params))

  def predict_fn(params, batch):
    return nnx.merge(graph, params)(batch['features'])

  return convert, predict_fn, ('bias', 'kernel')


MODELS = {'plain': plain, 'half': half, 'linen': linen, 'nnx': nnx_linear}


@parameterized.named_parameters(*named(ROWS))
class ConformanceTest(parameterized.TestCase):
  def test_steps_of_padding_alone_are_the_identity(self, name):
    padding = jax.tree.map(
      lambda batch: {**batch, 'mask': jnp.zeros_like(batch['mask'])},
      stacks(name),
      is_leaf=lambda x: isinstance(x, dict),
    )
    method = make(name)
    want = start(method, P.make_params(), jax.random.key(0), *padding)
    state = jax.tree.map(jnp.copy, want)
    got, metrics = loop.run(method, state, *padding)
    P.assert_identical(got, want)
    P.assert_identical(metrics, jax.tree.map(jnp.zeros_like, metrics))
    for leaf in jax.tree.leaves(got.params):
      self.assertTrue(np.isfinite(leaf).all())

  def test_learning_rate_zero_is_the_identity(self, name):
    moved, _ = run(name)
    self.assertTrue(P.differ(moved.params, P.make_params()))
    if name in EDITS:
      return
    state, _ = run(name, learning_rate=0.0)
    self.assertEqual(state.step, STEPS)
    key = jax.random.key(0)
    fresh = P.init_fn(jax.random.split(key)[0])
    want = start(make(name), P.make_params(), key, *stacks(name)).params
    if name == 'retrain':
      want = fresh
    elif name == 'eu_k':
      want = {**want, 'kernel': fresh['kernel']}
    P.assert_identical(state.params, want)

  def test_what_stands_behind_the_mask_changes_nothing(self, name):
    forget, retain = stacks(name)
    other = [None if s is None else P.nonsense(s, -7) for s in (forget, retain)]
    want, metrics = run(name, forget, retain)
    got, same = run(name, *other)
    P.assert_identical(got, want)
    P.assert_identical(same, metrics)

  def test_more_padding_changes_nothing(self, name):
    def widen(x):
      return jnp.concatenate([x, jnp.zeros_like(x)[:, :3]], 1)

    wide = jax.tree.map(widen, stacks(name))
    (got, metrics), (want, same) = run(name, *wide), run(name)
    P.assert_close(got.params, want.params)
    P.assert_close(metrics, same)

  def test_scan_equals_a_python_loop(self, name):
    stacked = stacks(name)
    want, metrics = run(name)
    state = start(make(name), P.make_params(), jax.random.key(0), *stacked)
    rows = []
    for k in range(int(want.step)):
      batches = (P.step_of(s, k) for s in stacked)
      state, row = _step(make(name), state, *batches)
      rows.append(row)
    P.assert_close(state.params, want.params, rtol=1e-6, atol=1e-7)
    P.assert_close(jax.tree.map(lambda *x: jnp.stack(x), *rows), metrics)
    self.assertEqual(state.step, want.step)

  @P.optimised()
  def test_vmap_equals_separate_runs(self, name):
    params, stacked = P.make_params(), stacks(name)
    keys = jax.random.split(jax.random.key(5), 3)
    hyper = hyper_of(loop.init(make(name), params, keys[0]))
    sweep = {n: v * np.asarray([0.25, 0.5, 1.0]) for n, v in hyper.items()}
    many, metrics = run_many(make(name), params, keys, sweep, *stacked)
    for k, key in enumerate(keys):
      values = {n: v[k] for n, v in sweep.items()}
      state = start(make(name), params, key, *stacked, **values)
      want, same = loop.run(make(name), state, *stacked)
      P.assert_close(P.step_of(many.params, k), want.params)
      P.assert_close(P.step_of(metrics, k), same)

  def test_every_hyper_parameter_in_the_state_counts(self, name):
    want, _ = run(name)
    hyper = hyper_of(want)
    for changed, value in hyper.items():
      if (name, changed) not in MAY_IDLE:
        got, _ = run(name, **{changed: 0.25 * value if value else 0.5})
        self.assertTrue(P.differ(got.params, want.params), changed)

  def test_parameters_stay_usable_and_the_same_key_gives_the_same(self, name):
    params = P.make_params()
    first = run(name, params=params, key=4)
    P.assert_identical(params, P.make_params())
    P.assert_identical(run(name, params=params, key=4), first)

  def test_repeated_calls_compile_once(self, name):
    state, _ = run(name)

    def sizes():
      return loop.run._cache_size(), loop.prepare._cache_size()

    before = sizes()
    run(name, *stacks(name, seed=3), params=P.make_params(3), key=3)
    for hyper in hyper_of(state):
      run(name, **{hyper: 0.5})
    self.assertEqual(sizes(), before)

  def test_a_set_that_is_needed_and_missing_is_refused(self, name):
    method, stacked = make(name), stacks(name)
    self.assertContainsSubset(method.needs, spec(name).needs)
    for side in method.needs:
      given = [None if side == 'forget' else stacked[0]]
      given += [None if side == 'retain' else stacked[1]]
      state = loop.init(method, P.make_params(), jax.random.key(0))
      with self.assertRaisesRegex(
        ValueError, f'needs {side} batches, got None'
      ):
        loop.run(method, state, *given)

  def test_types_and_structure_are_kept(self, name):
    params = MODELS['half']()[0](P.make_params())
    state, metrics = run(name, model='half')
    self.assertEqual(
      jax.tree.structure(state.params), jax.tree.structure(params)
    )
    for got, want in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
    ):
      self.assertEqual((got.dtype, got.shape), (want.dtype, want.shape))
      self.assertTrue(np.isfinite(np.float32(got)).all())
    self.assertTrue(P.differ(state.params, params))
    for values in metrics.values():
      self.assertEqual(values.shape, (state.step,))

  def test_any_model_gives_what_the_plain_function_gives(self, name):
    want, metrics = run(name)
    for model in ('linen', 'nnx'):
      got, same = run(name, model=model)
      if name in DRAWS_BY_LEAF:
        continue
      P.assert_close(got.params, MODELS[model]()[0](want.params))
      P.assert_close(same, metrics)


@parameterized.named_parameters(
  *named(n for n in ROWS if len(spec(n).needs) < 2)
)
class OneSetTest(parameterized.TestCase):
  def test_the_other_set_is_not_read(self, name):
    want, _ = run(name)
    steps = len(jax.tree.leaves(stacks(name))[0])
    other = P.make_batches(5, steps, 5, padding=2)
    for value in (1.0, jnp.nan):
      other['features'] = value * other['features']
      stacked = [other if s is None else s for s in stacks(name)]
      got, _ = run(name, *stacked)
      P.assert_identical(got, want)


class RowTest(parameterized.TestCase):
  def test_retraining_comes_first_and_alone_has_no_preset(self):
    self.assertEqual(ROWS[0], 'retrain')
    self.assertEqual([n for n in ROWS if spec(n).preset is None], ['retrain'])

  def test_rows_that_rewind(self):
    rewinds = [n for n in ROWS if spec(n).rewinds]
    self.assertEqual(rewinds, ['scrub_rewind', 'rewind:npo'])
    self.assertIs(make('scrub_rewind'), make('scrub'))  # The rule is SCRUB.

  @parameterized.named_parameters(*named(ROWS))
  def test_unknown_option(self, name):
    with self.assertRaises(TypeError):
      row = spec(name)
      options = row.preset.options if row.preset else {}
      problem = P.make_problem(blocks=('kernel', 'bias'))
      row.build(problem, P.sgd(), **options, unheard_of=1.0)

  @parameterized.named_parameters(*named(ROWS))
  def test_summary_is_one_line_of_a_table(self, name):
    summary = spec(name).summary
    self.assertBetween(len(summary), 1, 79)
    self.assertNotRegex(summary, r'\n|\.$')


if __name__ == '__main__':
  absltest.main()
