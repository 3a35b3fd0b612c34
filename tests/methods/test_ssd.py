"""SSD and LFSSD against their NumPy twin; `test_dampen` has the edit alone."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.datasets import batches
from unlearn_jax.methods.lfssd import absolute_sum
from unlearn_jax.methods.lfssd import lfssd
from unlearn_jax.methods.ssd import importance_mean
from unlearn_jax.methods.ssd import importance_sums
from unlearn_jax.methods.ssd import ssd
from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.per_example import fisher
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

INF, NAN = float('inf'), float('nan')
NET = TCResNet8(3, widths=(8, 16), groups=4)  # With one block.
# Between the ratios of the twin, so that it dampens a part.
HYPER = {'threshold': 1.05, 'dampening': 0.9, 'exponent': 0.7}
SUM_FNS = {
  'ssd': functools.partial(fisher.squared_sum, P.loss_fn),
  'lfssd': functools.partial(absolute_sum, P.predict_fn),
}
RULES = tuple(SUM_FNS)


@functools.cache
def _make(rule, options):
  if rule == 'ssd':
    return ssd(P.loss_fn, **dict(options))
  return lfssd(P.predict_fn, **dict(options))


def make(rule, **options):
  """The same options give the same object, compiled once."""
  return _make(rule, tuple({**HYPER, **options}.items()))


@functools.partial(jax.jit, static_argnames='rule')
def importance(params, *sets, rule='ssd'):
  sum_fn = SUM_FNS[rule]
  return importance_mean(*(importance_sums(sum_fn, params, s) for s in sets))


def setup():
  forget = P.make_batches(2, 3, 5, padding=1)
  retain = P.make_batches(20, 4, 7, padding=2)
  return P.make_params(), forget, retain


def edit(method, params, forget, retain, examples=None, **hyper):
  state = loop.init(method, params, jax.random.key(0))
  hyper = {name: jnp.array(value, jnp.float32) for name, value in hyper.items()}
  state = optax.tree_utils.tree_set(state, **hyper) if hyper else state
  return loop.prepare(method, state, forget, retain, examples)


def all_rows(*sets):
  flat = [jax.tree.map(np.concatenate, dict(s)) for s in sets]
  return P.real_rows(jax.tree.map(lambda *x: np.concatenate(x), *flat))


def twin_importance(params, *sets, rule='ssd'):
  """Mean over all rows of g^2, or of |g|, in float64."""
  rows, params = all_rows(*sets), P.as_float64(params)
  logits = P.twin_logits(params, rows)
  if rule == 'ssd':
    p = np.exp(P.twin_log_softmax(logits))
    slope, power = p - np.eye(P.CLASSES)[rows['label']], 2
  else:
    slope, power = 2 * logits, 1
  features = np.float64(rows['features'])
  kernel = features[:, :, None] * slope[:, None]
  return {
    'kernel': (np.abs(kernel) ** power).mean(0),
    'bias': (np.abs(slope) ** power).mean(0),
  }


def twin_edit(params, of_forget, of_all, *, threshold, dampening, exponent):
  params = P.as_float64(params)
  for name, theta in params.items():
    f, d = of_forget[name], of_all[name]
    shrunk = theta * np.minimum((dampening * d / f) ** exponent, 1.0)
    params[name] = np.where(f > threshold * d, shrunk, theta)
  return params


def with_wild_features(stacked, value):
  real = (stacked['mask'] > 0)[..., None]
  return stacked | {'features': jnp.where(real, stacked['features'], value)}


class ImportanceTest(parameterized.TestCase):
  @parameterized.parameters(*RULES)
  def test_equals_twin(self, rule):
    params, forget, retain = setup()
    for sets in ((forget,), (forget, retain)):
      got = importance(params, *sets, rule=rule)
      want = twin_importance(params, *sets, rule=rule)
      P.assert_close(got, want, rtol=1e-5, atol=0)

  @parameterized.product(rule=RULES, size=(1, 7, 64, 256))
  def test_does_not_depend_on_the_size_or_order_of_batches(self, rule, size):
    params, examples = P.make_params(), P.make_examples(256, seed=3)
    order = np.random.default_rng(size).permutation(256)
    stacked = batches.one_pass(order, size)
    total = importance_sums(SUM_FNS[rule], params, stacked, examples)
    examples = {**examples, 'mask': np.ones(256)}
    examples = jax.tree.map(lambda x: x[None], examples)
    want = twin_importance(params, examples, rule=rule)
    P.assert_close(importance_mean(total), want, rtol=1e-5, atol=0)

  def test_of_a_network_does_not_depend_on_the_size_of_batches(self):
    params = jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 12, 8)))
    params = params['params']

    def predict_fn(params, batch):
      return NET.apply({'params': params}, batch['features']).logits

    rng = np.random.default_rng(0)
    examples = {
      'features': jnp.asarray(rng.normal(size=(256, 12, 8)), jnp.float32),
      'label': jnp.asarray(rng.integers(0, 3, 256)),
    }
    sum_fn = functools.partial(fisher.squared_sum, cross_entropy(predict_fn))
    found = []
    for size in (1, 7, 64, 256):
      stacked = batches.one_pass(np.arange(256), size)
      total = jax.jit(functools.partial(importance_sums, sum_fn))(
        params, stacked, examples
      )
      found.append(importance_mean(total))
    for other in found[1:]:
      P.assert_close(other, found[0], rtol=1e-5, atol=0)

  def test_is_not_the_square_of_a_batch_mean(self):
    stacked = {'x': jnp.asarray([[1.0, -1.0]]), 'mask': jnp.ones((1, 2))}
    sum_fn = functools.partial(fisher.squared_sum, lambda w, b: w * b['x'])
    total = importance_sums(sum_fn, jnp.zeros(()), stacked)
    np.testing.assert_array_equal(importance_mean(total), 1.0)

  def test_all_data_are_not_a_mean_of_two_means(self):
    params, forget, retain = setup()
    means = (twin_importance(params, s) for s in (forget, retain))
    wrong = P.add(*((0.5, mean) for mean in means))
    got = importance(params, forget, retain)
    self.assertGreater(np.abs(got['bias'] / wrong['bias'] - 1).max(), 0.01)


@parameterized.parameters(*RULES)
class MethodTest(parameterized.TestCase):
  def test_edit_equals_twin(self, rule):
    params, forget, retain = setup()
    state = edit(make(rule), params, forget, retain)
    of_forget = twin_importance(params, forget, rule=rule)
    of_all = twin_importance(params, forget, retain, rule=rule)
    want = twin_edit(params, of_forget, of_all, **HYPER)
    P.assert_close(state.params, want)
    moved = sum((want[n] != params[n]).sum() for n in want)
    share = moved / sum(x.size for x in want.values())
    self.assertBetween(share, 0.05, 0.95)
    report = state.method_state.report
    np.testing.assert_allclose(report['dampened_share'], share, rtol=1e-6)

  def test_steps_change_nothing_more(self, rule):
    params, forget, retain = setup()
    method, state = make(rule), edit(make(rule), params, forget, retain)
    want = jax.tree.map(jnp.copy, state.params)
    forget = P.steps_of(forget, [0, 1, 2, 0])
    state, metrics = loop.run(method, state, forget, retain)
    P.assert_identical(state.params, want)
    self.assertEqual(metrics, {})

  def test_a_stored_importance_stands_for_the_retain_set(self, rule):
    params, forget, retain = setup()
    want = edit(make(rule), params, forget, retain)
    stored = importance(params, forget, retain, rule=rule)
    build = {'ssd': ssd, 'lfssd': lfssd}[rule]
    function = {'ssd': P.loss_fn, 'lfssd': P.predict_fn}[rule]
    method = build(function, importance=stored, **HYPER)
    for ignored in (None, retain | {'features': NAN * retain['features']}):
      got = edit(method, params, forget, ignored)
      P.assert_close(got.params, want.params, rtol=1e-6, atol=0)

  def test_without_retain_set_or_importance_raises(self, rule):
    params, forget, _ = setup()
    with self.assertRaisesRegex(ValueError, 'without an importance'):
      edit(make(rule), params, forget, None)

  def test_what_stands_behind_the_mask_changes_nothing(self, rule):
    params, forget, retain = setup()
    want = edit(make(rule), params, forget, retain)
    for value in (NAN, INF):
      wild = (with_wild_features(s, value) for s in (forget, retain))
      P.assert_identical(edit(make(rule), params, *wild), want)

  def test_more_padding_changes_nothing(self, rule):
    params, forget, retain = setup()
    want = edit(make(rule), params, forget, retain)
    wide = (
      jax.tree.map(lambda x: jnp.concatenate([x, 0 * x], 1), s)
      for s in (forget, retain)
    )
    got = edit(make(rule), params, *wide)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=0)
    got = edit(make(rule), params, forget, P.steps_of(retain, [3, 1, -1, 0, 2]))
    P.assert_close(got.params, want.params, rtol=1e-6, atol=0)

  def test_a_forget_set_of_padding_alone_is_the_identity(self, rule):
    params, forget, retain = setup()
    state = edit(make(rule), params, P.steps_of(forget, [-1, -1, -1]), retain)
    P.assert_identical(state.params, params)

  def test_microbatches_change_nothing(self, rule):
    params, forget, retain = setup()
    want = edit(make(rule), params, forget, retain)
    got = edit(make(rule, microbatch=2), params, forget, retain)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=0)

  def test_rows_may_be_given_by_their_index(self, rule):
    params, forget, retain = setup()
    rows = [all_rows(s) for s in (forget, retain)]
    sizes = [len(r['mask']) for r in rows]
    examples = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    examples = {n: examples[n] for n in ('features', 'label')}
    index = np.split(np.arange(sum(sizes)), [sizes[0]])
    stacked = (batches.one_pass(i, 4) for i in index)
    got = edit(make(rule), params, *stacked, examples)
    want = edit(make(rule), params, forget, retain)
    P.assert_close(got.params, want.params, rtol=1e-6, atol=0)

  def test_many_settings_and_models_at_once_equal_each_alone(self, rule):
    _, forget, retain = setup()
    params = jax.vmap(P.init_fn)(jax.random.split(jax.random.key(0), 3))
    sweep = {
      'threshold': jnp.asarray([1.0, 1.05, INF]),
      'dampening': jnp.asarray([0.5, 0.9, 1.0]),
      'exponent': jnp.asarray([1.0, 0.7, 2.0]),
    }
    many = jax.vmap(lambda p, h: edit(make(rule), p, forget, retain, **h))(
      params, sweep
    )
    for k in range(3):
      one, hyper = P.step_of(params, k), P.step_of(sweep, k)
      want = edit(make(rule), one, forget, retain, **hyper)
      P.assert_close(P.step_of(many.params, k), want.params)
    self.assertTrue(P.differ(P.step_of(many.params, 0), P.step_of(params, 0)))
    P.assert_identical(P.step_of(many.params, 2), P.step_of(params, 2))


class LabelsTest(parameterized.TestCase):
  def test_lfssd_reads_no_labels(self):
    params, forget, retain = setup()
    want = edit(make('lfssd'), params, forget, retain)
    permuted = (s | {'label': s['label'][:, ::-1]} for s in (forget, retain))
    shifted = (s | {'label': s['label'] + 5} for s in (forget, retain))
    for pair in (permuted, shifted):
      P.assert_identical(edit(make('lfssd'), params, *pair), want)
    bare = (
      {'features': s['features'], 'mask': s['mask']} for s in (forget, retain)
    )
    P.assert_identical(edit(make('lfssd'), params, *bare), want)

  def test_ssd_reads_labels(self):
    params, forget, retain = setup()
    want = edit(make('ssd'), params, forget, retain)
    permuted = forget | {'label': (forget['label'] + 1) % P.CLASSES}
    got = edit(make('ssd'), params, permuted, retain)
    self.assertTrue(P.differ(got.params, want.params))


class BoundsTest(parameterized.TestCase):
  @parameterized.product(
    rule=RULES,
    option=(
      ('threshold', -0.1, 0),
      ('threshold', NAN, 0),
      ('dampening', -0.1, 0),
      ('exponent', -0.1, 0),
      ('microbatch', 0, 1),
    ),
  )
  def test_option(self, rule, option):
    name, value, low = option
    message = f'{name} must be >= {low}, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      make(rule, **{name: value})


if __name__ == '__main__':
  absltest.main()
