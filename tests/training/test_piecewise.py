"""A batch in pieces, and moments in half: the same training, less memory."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems as P

from unlearn_jax.methods.scrub import scrub
from unlearn_jax.training import half_state
from unlearn_jax.training.piecewise import in_pieces


class PiecesTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 7, 8, 100)
  def test_any_rule_takes_the_same_steps(self, size):
    forget = P.make_batches(1, 3, 5, padding=1)
    retain = P.make_batches(2, 3, 7, padding=2)
    states = []
    for microbatch in (None, size):
      functions = (
        in_pieces(fun, microbatch) for fun in (P.loss_fn, P.predict_fn)
      )
      method = scrub(*functions, P.sgd())
      states.append(P.run(method, P.make_params(), forget, retain)[0])
    P.assert_close(states[0].params, states[1].params)

  def test_memory_is_that_of_a_piece(self):
    width = 512
    params = {'a': jnp.ones((4, width)), 'b': jnp.ones((width, 3))}

    def fun(params, batch):
      return jnp.tanh(batch['features'] @ params['a']) @ params['b']

    batch = {'features': jnp.ones((256, 4))}

    def scratch(fun):
      def objective(params):
        return fun(params, batch).sum()

      compiled = jax.jit(jax.grad(objective)).lower(params).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    self.assertLess(4 * scratch(in_pieces(fun, 8)), scratch(fun))


class HalfTest(parameterized.TestCase):
  def test_rounding_is_right_on_average(self):
    x = jnp.full(100_000, 1.0 + 2**-10)  # An eighth of the way to the next.
    rounded = half_state.round_at_random(jax.random.key(0), x)
    self.assertEqual(rounded.dtype, jnp.bfloat16)
    self.assertEqual(set(np.unique(np.float32(rounded))), {1.0, 1.0 + 2**-7})
    mean = np.float64(rounded).mean()
    self.assertAlmostEqual(mean, 1.0 + 2**-10, delta=5e-5)
    exact = jnp.float32([0.0, -0.0, 1.5, -3.0, 1e-30])
    kept = exact.astype(jnp.bfloat16)
    got = half_state.round_at_random(
      jax.random.key(1), kept.astype(jnp.float32)
    )
    np.testing.assert_array_equal(got, kept)

  def test_second_moments_decay(self):
    """To the nearest, they would stay for ever: 0.999 x rounds to x."""
    tx = half_state.in_bfloat16(optax.adam(1e-3))
    params = {'w': jnp.ones(1_000)}
    state = tx.init(params)
    self.assertEqual(state.inner[0].nu['w'].dtype, jnp.bfloat16)
    _, state = tx.update({'w': jnp.ones(1_000)}, state, params)

    def step(state, _):
      return tx.update({'w': jnp.zeros(1_000)}, state, params)[1], None

    state, _ = jax.lax.scan(step, state, None, 2_000)
    nu = np.float32(state.inner[0].nu['w']).mean()
    self.assertAlmostEqual(nu, 1e-3 * 0.999**2_000, delta=1e-5)

  def test_trains_as_well(self):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(200, 5)), rng.normal(size=(5, 2))
    x, y = jnp.float32(x), jnp.float32(x @ w)

    def train(tx):
      params = {'w': jnp.zeros((5, 2))}

      def loss(params):
        return jnp.square(x @ params['w'] - y).mean()

      def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

      _, losses = jax.lax.scan(step, (params, tx.init(params)), None, 500)
      return float(losses[-1])

    tx = optax.inject_hyperparams(optax.adamw)(learning_rate=3e-2)
    whole, half = train(tx), train(half_state.in_bfloat16(tx))
    self.assertLess(whole, 1e-3)
    self.assertLess(half, 1e-3)


if __name__ == '__main__':
  absltest.main()
