"""Fisher diagonals against the NumPy twin."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.models.tc_resnet import TCResNet8
from unlearn_jax.per_example import fisher
from unlearn_jax.training.losses import cross_entropy

NET = TCResNet8(3, widths=(8, 16), groups=4)  # With one block.


def net_predict_fn(params, batch):
  return NET.apply({'params': params}, batch['features']).logits


@functools.partial(jax.jit, static_argnames='microbatch')
def diagonals(params, batch, microbatch=None):
  """Returns the empirical diagonal and the model's."""
  return (
    fisher.fisher_diagonal(P.loss_fn, params, batch, microbatch=microbatch),
    fisher.model_fisher_diagonal(
      P.predict_fn, params, batch, microbatch=microbatch
    ),
  )


def one_batch(size, padding=0, seed=1):
  return P.step_of(P.make_batches(seed, 1, size, padding), 0)


def twin_diagonal(params, batch, weight):
  """Mean over rows of the sum over classes of weight * gradient^2.

  Args:
    params: of the logistic regression.
    batch: one batch.
    weight: maps (probabilities, labels) to weights [rows, classes].
  """
  rows = P.real_rows(batch)
  p = np.exp(P.twin_log_softmax(P.twin_logits(P.as_float64(params), rows)))
  features = np.float64(rows['features'])
  total = {'kernel': 0.0, 'bias': 0.0}
  for label in range(P.CLASSES):
    slope = p - np.eye(P.CLASSES)[label][None]
    share = weight(p, rows['label'])[:, label]
    squares = {
      'kernel': np.square(features[:, :, None] * slope[:, None]),
      'bias': np.square(slope),
    }
    for name, value in squares.items():
      total[name] += np.tensordot(share, value, (0, 0)) / max(len(p), 1)
  return total


def twin_diagonals(params, batch):
  return (
    twin_diagonal(params, batch, lambda p, label: np.eye(P.CLASSES)[label]),
    twin_diagonal(params, batch, lambda p, label: p),
  )


class TwinTest(parameterized.TestCase):
  @parameterized.product(
    size_and_padding=((1, 0), (7, 2), (12, 0)), microbatch=(None, 1, 3, 7, 50)
  )
  def test_equals_twin(self, size_and_padding, microbatch):
    params, batch = P.make_params(), one_batch(*size_and_padding)
    got = diagonals(params, batch, microbatch=microbatch)
    P.assert_close(got, twin_diagonals(params, batch), rtol=2e-5)

  def test_it_is_not_the_square_of_the_mean_gradient(self):
    batch = {'x': jnp.asarray([1.0, -1.0]), 'mask': jnp.ones(2)}
    for microbatch in (None, 1):
      got = fisher.fisher_diagonal(
        lambda w, b: w * b['x'], jnp.zeros(()), batch, microbatch=microbatch
      )
      np.testing.assert_array_equal(got, 1.0)

  def test_sums_are_the_means_times_the_count(self):
    params, batch = P.make_params(), one_batch(7, 2)
    got = (
      fisher.squared_sum(P.loss_fn, params, batch, microbatch=3),
      fisher.model_squared_sum(P.predict_fn, params, batch, microbatch=3),
    )
    want = jax.tree.map(lambda x: 5 * x, twin_diagonals(params, batch))
    P.assert_close(got, want, rtol=2e-5)

  def test_of_the_model_reads_no_labels(self):
    params, batch = P.make_params(), one_batch(7, 2)
    want = fisher.model_fisher_diagonal(P.predict_fn, params, batch)
    del batch['label']
    got = fisher.model_fisher_diagonal(P.predict_fn, params, batch)
    P.assert_identical(got, want)

  def test_many_models_at_once_equal_each_alone(self):
    batch = one_batch(7, 2)
    params = jax.vmap(P.init_fn)(jax.random.split(jax.random.key(0), 3))
    many = jax.vmap(lambda p: diagonals(p, batch, microbatch=3))(params)
    for k in range(3):
      want = twin_diagonals(P.step_of(params, k), batch)
      P.assert_close(P.step_of(many, k), want, rtol=2e-5)


class InvarianceTest(parameterized.TestCase):
  @parameterized.parameters(1, 7, 64)
  def test_microbatch_and_order_change_nothing(self, microbatch):
    params, batch = P.make_params(), one_batch(256)
    shuffled = jax.tree.map(lambda x: x[::-1], batch)
    want = diagonals(params, batch)
    got = diagonals(params, shuffled, microbatch=microbatch)
    P.assert_close(got, want, rtol=1e-5, atol=0)

  @parameterized.product(value=(np.nan, np.inf), microbatch=(None, 3))
  def test_what_stands_behind_the_mask_changes_nothing(self, value, microbatch):
    params, batch = P.make_params(), one_batch(8, 4)
    real = (batch['mask'] > 0)[:, None]
    wild = batch | {'features': jnp.where(real, batch['features'], value)}
    got = diagonals(params, wild, microbatch=microbatch)
    P.assert_identical(got, diagonals(params, batch, microbatch=microbatch))

  def test_more_padding_changes_nothing(self):
    params, batch = P.make_params(), one_batch(7, 2)
    wide = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), batch)
    got, want = (diagonals(params, b) for b in (wide, batch))
    P.assert_close(got, want, rtol=1e-6, atol=0)

  def test_of_padding_alone_it_is_zero(self):
    params, batch = P.make_params(), one_batch(7, 7)
    wild = batch | {'features': jnp.full_like(batch['features'], jnp.nan)}
    got = diagonals(params, wild)
    P.assert_identical(got, jax.tree.map(jnp.zeros_like, got))


class NetworkTest(parameterized.TestCase):
  def test_equals_a_loop_over_examples_and_classes(self):
    variables = jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 12, 8)))
    params = variables['params']
    rng = np.random.default_rng(3)
    batch = {
      'features': jnp.asarray(rng.normal(size=(5, 12, 8)), jnp.float32),
      'label': jnp.asarray([0, 2, 1, 1, 0]),
      'mask': jnp.ones(5),
    }
    loss_fn = cross_entropy(net_predict_fn)

    @jax.jit
    def of_one(features, label):
      one = {'features': features[None], 'label': label[None]}
      loss, gradient = jax.value_and_grad(lambda p: loss_fn(p, one)[0])(params)
      return jnp.exp(-loss), jax.tree.map(jnp.square, gradient)

    empirical, model = [], []
    for features, label in zip(batch['features'], batch['label'], strict=True):
      for c in range(3):
        p, squares = of_one(features, jnp.asarray(c))
        model.append(jax.tree.map(lambda s, p=p: p * s / 5, squares))
        if c == label:
          empirical.append(jax.tree.map(lambda s: s / 5, squares))
    empirical, model = (
      jax.tree.map(lambda *x: np.stack(x).sum(0), *parts)
      for parts in (empirical, model)
    )
    options = {'params': params, 'batch': batch, 'microbatch': 2}
    P.assert_close(
      jax.jit(lambda: fisher.fisher_diagonal(loss_fn, **options))(),
      empirical,
      rtol=1e-4,
      atol=1e-7,
    )
    P.assert_close(
      jax.jit(
        lambda: fisher.model_fisher_diagonal(net_predict_fn, **options)
      )(),
      model,
      rtol=1e-4,
      atol=1e-7,
    )


class FormTest(parameterized.TestCase):
  def test_half_precision_is_summed_in_single(self):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), P.make_params())
    batch = one_batch(256)
    batch['features'] = batch['features'].astype(jnp.bfloat16)
    got = diagonals(half, batch, microbatch=1)
    types = {str(x.dtype) for x in jax.tree.leaves(got)}
    self.assertEqual(types, {'float32'})
    # In bfloat16, 256 terms would lose nearly all of the last ones.
    P.assert_close(got, twin_diagonals(half, batch), rtol=2e-2)

  @parameterized.parameters(0, -3)
  def test_microbatch(self, microbatch):
    params, batch = P.make_params(), one_batch(4)
    message = f'microbatch must be >= 1, got {microbatch}'
    with self.assertRaisesRegex(ValueError, message):
      fisher.fisher_diagonal(P.loss_fn, params, batch, microbatch=microbatch)
    with self.assertRaisesRegex(ValueError, message):
      fisher.model_fisher_diagonal(
        P.predict_fn, params, batch, microbatch=microbatch
      )

  @parameterized.parameters('empirical', 'model')
  def test_memory_grows_with_the_microbatch_alone(self, mode):
    def predict_fn(params, batch):
      return jnp.tanh(batch['features'] @ params['a']) @ params['b']

    params = {
      'a': jax.ShapeDtypeStruct((256, 512), jnp.float32),
      'b': jax.ShapeDtypeStruct((512, 10), jnp.float32),
    }

    def peak(size, microbatch):
      batch = {
        'features': jax.ShapeDtypeStruct((size, 256), jnp.float32),
        'label': jax.ShapeDtypeStruct((size,), jnp.int32),
        'mask': jax.ShapeDtypeStruct((size,), jnp.float32),
      }
      diagonal = {
        'empirical': functools.partial(
          fisher.fisher_diagonal, cross_entropy(predict_fn)
        ),
        'model': functools.partial(fisher.model_fisher_diagonal, predict_fn),
      }[mode]
      program = jax.jit(functools.partial(diagonal, microbatch=microbatch))
      analysis = program.lower(params, batch).compile().memory_analysis()
      return analysis.temp_size_in_bytes

    self.assertLess(peak(256, 4), 1.1 * peak(32, 4))
    self.assertGreater(peak(256, 32), 4 * peak(256, 4))


if __name__ == '__main__':
  absltest.main()
