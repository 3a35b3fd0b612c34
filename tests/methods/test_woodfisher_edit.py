"""The WoodFisher edit against dense NumPy solves."""

from absl.testing import absltest
from absl.testing import parameterized
from influence_problems import edit
from influence_problems import flat
from influence_problems import gradients_of
from influence_problems import make
from influence_problems import setup
import jax
import numpy as np
import problems as P


class WoodfisherTest(parameterized.TestCase):
  def test_step_equals_dense_solve(self):
    params, forget, retain = setup()
    hyper = {'step': 0.7, 'damping': 0.5, 'weight_decay': 0.05}
    method = make('woodfisher', None)
    got, report = edit(method, params, forget, retain, **hyper)
    theta = P.as_float64(params)
    of_forget, of_retain = (
      gradients_of(
        theta, P.real_rows(jax.tree.map(np.concatenate, dict(stacked)))
      )
      for stacked in (forget, retain)
    )
    n_forget, n_retain = len(of_forget), len(of_retain)
    v = of_forget.sum(0) - n_forget / n_retain * of_retain.sum(0)
    v = v / (n_forget + n_retain)
    fisher = of_retain.T @ of_retain / n_retain
    ridge = 0.5 * np.trace(fisher) / len(fisher) + 0.05
    step = 0.7 * np.linalg.solve(fisher + ridge * np.eye(len(fisher)), v)
    np.testing.assert_allclose(
      flat(got), flat(params) + step, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
      report['step_norm'], np.linalg.norm(step), rtol=1e-4
    )

  def test_forget_set_like_the_retain_set_is_the_identity(self):
    params, _, retain = setup()
    got, _ = edit(make('woodfisher', 9), params, retain, retain)
    P.assert_close(got, params, rtol=1e-6)

  def test_gradients_of_a_part_differ_from_those_of_all(self):
    params, forget, retain = setup()
    some, other, every = (
      edit(make('woodfisher', n), params, forget, retain, key)[0]
      for n, key in ((9, 0), (9, 1), (None, 0))
    )
    self.assertTrue(P.differ(some, every))
    self.assertTrue(P.differ(some, other))


if __name__ == '__main__':
  absltest.main()
