"""Boundary shrink against its NumPy twin."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.boundary_shrink import boundary_shrink
from unlearn_jax.methods.boundary_shrink import boundary_shrink_direction
from unlearn_jax.methods.boundary_shrink import neighbour_labels
from unlearn_jax.training import loop
from unlearn_jax.training.losses import cross_entropy

STEPS = 5
HEAVY = {'learning_rate': 0.2, 'momentum': 0.9, 'weight_decay': 0.1}
SHRINK = boundary_shrink(P.loss_fn, P.predict_fn, P.sgd(**HEAVY), epsilon=0.5)

_neighbours = jax.jit(
  functools.partial(
    neighbour_labels, loss_fn=P.loss_fn, predict_fn=P.predict_fn
  )
)


def setup():
  return P.make_params(), P.make_batches(1, STEPS, 5, padding=1)


def flat(stacked):
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)


def poisoned(stacked):
  """Nothing finite stands behind the mask, and labels that are none."""
  keep = stacked['mask'][..., None] > 0
  other = P.nonsense(stacked, -7)
  return {**other, 'features': jnp.where(keep, other['features'], jnp.nan)}


def twin_moved(params, batch, step):
  """The inputs after one signed step up the loss."""
  theta, batch = P.as_float64(params), P.real_rows(batch)
  p = np.exp(P.twin_log_softmax(P.twin_logits(theta, batch)))
  p[np.arange(len(p)), batch['label']] -= 1.0
  sign = np.sign(p @ theta['kernel'].T)
  return np.float64(batch['features']) + step * sign


def twin_neighbours(params, batch, step, change=lambda x: x, true_too=False):
  """Nearest classes; `change` spoils the moved inputs first."""
  theta, label = P.as_float64(params), P.real_rows(batch)['label']
  moved = change(twin_moved(params, batch, step))
  logits = P.twin_logits(theta, {'features': moved})
  if not true_too:
    logits[np.arange(len(logits)), label] = -np.inf
  return logits.argmax(-1)


def real(batch, values):
  return np.asarray(values)[np.asarray(batch['mask']) > 0]


def shrink(params, forget, method=SHRINK, **hyper):
  state = loop.init(method, params, jax.random.key(0))
  arrays = {name: jnp.float32(value) for name, value in hyper.items()}
  if hyper:
    state = optax.tree_utils.tree_set(state, **arrays)
  state = loop.prepare(method, state, forget, None)
  return loop.run(method, state, forget, None)


class NeighbourTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.1, 1.0, 5.0)
  def test_equals_twin(self, epsilon):
    params, batch = P.make_params(), flat(P.make_batches(3, 8, 6, padding=1))
    step = epsilon * np.asarray([1.0, 0.5, 2.0, 0.1])
    got = _neighbours(params, batch, jnp.asarray(step, jnp.float32))
    want = twin_neighbours(params, batch, step)
    np.testing.assert_array_equal(real(batch, got), want)
    self.assertEqual(got.dtype, batch['label'].dtype)

  def test_is_never_the_true_class_where_the_boundary_is_not_crossed(self):
    params, batch = P.make_params(), flat(P.make_batches(3, 8, 6, padding=1))
    step = np.full(P.FEATURES, 0.01)
    inside = twin_neighbours(params, batch, step, true_too=True)
    label = real(batch, batch['label'])
    self.assertTrue((inside == label).any())
    got = _neighbours(params, batch, jnp.asarray(step, jnp.float32))
    self.assertFalse((real(batch, got) == label).any())

  @parameterized.parameters(np.nan, np.inf, 0.0)
  def test_is_never_the_true_class_whatever_the_logits_are(self, value):
    batch = P.step_of(P.make_batches(1, 1, 6), 0)
    got = neighbour_labels(
      P.make_params(),
      batch,
      jnp.ones(P.FEATURES),
      loss_fn=P.loss_fn,
      predict_fn=lambda p, b: jnp.full((6, P.CLASSES), value),
    )
    self.assertFalse((got == batch['label']).any())
    self.assertTrue(((got >= 0) & (got < P.CLASSES)).all())

  def test_two_classes_flip(self):
    rng = np.random.default_rng(0)
    params = {'kernel': rng.normal(size=(P.FEATURES, 2)), 'bias': np.zeros(2)}
    batch = {**P.make_examples(9, classes=2), 'mask': jnp.ones(9)}
    got = neighbour_labels(
      jax.tree.map(jnp.float32, params),
      batch,
      jnp.ones(P.FEATURES),
      loss_fn=P.loss_fn,
      predict_fn=P.predict_fn,
    )
    np.testing.assert_array_equal(got, 1 - batch['label'])

  def test_inputs_are_neither_clipped_nor_rounded(self):
    params, batch = P.make_params(), flat(P.make_batches(3, 8, 6, padding=1))
    step = np.full(P.FEATURES, 0.3)
    got = real(batch, _neighbours(params, batch, jnp.float32(step)))
    spoilt = (
      lambda x: np.clip(x, 0.0, 1.0),
      lambda x: np.round(x * 255).astype(np.uint8) / 255,
    )
    for change in spoilt:
      other = twin_neighbours(params, batch, step, change)
      self.assertTrue((other != got).any())
    want = twin_neighbours(params, batch, step)
    np.testing.assert_array_equal(got, want)

  def test_of_inputs_with_frames_and_of_little_precision(self):
    batch = {
      'features': jnp.arange(24, dtype=jnp.float16).reshape(2, 3, 4) / 10,
      'label': jnp.asarray([0, 1]),
      'mask': jnp.ones(2),
    }

    def predict_fn(params, batch):
      return P.predict_fn(params, {'features': batch['features'].mean(1)})

    seen = []

    def spy(params, batch):
      seen.append(batch['features'])
      return predict_fn(params, batch)

    step = jnp.asarray([0.5, 1e-3, 0.1, 2.0])
    neighbour_labels(
      P.make_params(),
      batch,
      step,
      loss_fn=cross_entropy(predict_fn),
      predict_fn=spy,
    )
    moved = np.abs(seen[0] - batch['features'].astype(jnp.float32))
    want = np.broadcast_to(step, (2, 3, 4))
    np.testing.assert_allclose(moved, want, rtol=1e-3)


class ShrinkTest(parameterized.TestCase):
  def test_direction_equals_closed_form(self):
    params, forget = setup()
    batch = P.step_of(forget, 0)
    got, metrics = boundary_shrink_direction(params, batch, loss_fn=P.loss_fn)
    theta = P.as_float64(params)
    P.assert_close(got, P.twin_loss_gradient(theta, batch))
    want = P.twin_losses(theta, P.real_rows(batch)).mean()
    np.testing.assert_allclose(metrics['neighbour_loss'], want, rtol=1e-6)

  def test_run_equals_twin_with_the_neighbours_of_the_original(self):
    params, forget = setup()
    # Two passes, so that each example is asked for its neighbour twice.
    forget = P.steps_of(forget, [0, 1, 2, 3, 4] * 2)
    std = P.real_rows(flat(forget))['features'].std(0)
    step = 0.5 * np.float64(std)
    state, _ = shrink(params, forget)

    def relabelled(theta, k):
      batch = P.real_rows(P.step_of(forget, k))
      return {**batch, 'label': twin_neighbours(theta, batch, step)}

    def gradient(theta, k):
      return P.twin_loss_gradient(theta, relabelled(params, k))

    want = P.twin_run(gradient, params, 10, **HEAVY)
    P.assert_close(state.params, want)
    # A neighbour of the model as it is would be another one.
    now, original = (
      [relabelled(p, k)['label'] for k in range(5)] for p in (want, params)
    )
    self.assertTrue((np.stack(now) != np.stack(original)).any())

  def test_what_stands_behind_the_mask_changes_nothing(self):
    params, forget = setup()
    P.assert_identical(shrink(params, poisoned(forget)), shrink(params, forget))

  def test_epsilon_is_in_standard_deviations_of_each_bin(self):
    params = P.make_params()
    forget = P.make_batches(3, 1, 40, padding=1)
    scale = jnp.asarray([3.0, 0.1, 1.0, 30.0])
    forget['features'] = forget['features'] * scale[None, None]
    params['kernel'] = params['kernel'] / scale[:, None]
    state = loop.init(SHRINK, params, jax.random.key(0))
    state = loop.prepare(SHRINK, state, forget, None)
    batch = P.step_of(forget, 0)
    std = np.float64(P.real_rows(batch)['features']).std(0)
    got = state.method_state.frozen['std']
    np.testing.assert_allclose(got, std, rtol=1e-5)
    _, metrics = loop.run(SHRINK, state, forget, None)
    means = []
    for unit in (std, np.ones(P.FEATURES), np.full(P.FEATURES, std.mean())):
      label = twin_neighbours(params, batch, 0.5 * unit)
      rows = {**P.real_rows(batch), 'label': label}
      means.append(P.twin_losses(P.as_float64(params), rows).mean())
    np.testing.assert_allclose(metrics['neighbour_loss'], means[0], rtol=1e-5)
    apart = np.abs(np.asarray(means[1:]) - means[0])
    self.assertGreater(apart.min(), 1e-3)

  def test_vmap_over_epsilon_equals_separate_runs(self):
    params, forget = setup()
    values = jnp.asarray([0.0, 0.5, 4.0])
    state = jax.vmap(
      lambda v: optax.tree_utils.tree_set(
        loop.init(SHRINK, params, jax.random.key(0)), epsilon=jnp.copy(v)
      )
    )(values)
    state = jax.vmap(lambda s: loop.prepare(SHRINK, s, forget, None))(state)
    many, _ = jax.vmap(lambda s: loop.run(SHRINK, s, forget, None))(state)
    for k, value in enumerate(values):
      one, _ = shrink(params, forget, epsilon=value)
      P.assert_close(P.step_of(many.params, k), one.params)
    self.assertGreater(np.abs(np.diff(many.params['bias'], axis=0)).max(), 1e-3)

  def test_a_step_before_prepare_raises(self):
    params, forget = setup()
    message = 'boundary_shrink needs `loop.prepare`'
    with self.assertRaisesRegex(ValueError, message):
      P.run(SHRINK, params, forget, None)

  @parameterized.parameters(-0.1, float('nan'))
  def test_bounds(self, value):
    message = f'epsilon must be >= 0, got {value}'
    with self.assertRaisesRegex(ValueError, message):
      boundary_shrink(P.loss_fn, P.predict_fn, P.sgd(), epsilon=value)


if __name__ == '__main__':
  absltest.main()
