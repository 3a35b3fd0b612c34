"""Curvature over drawn examples: unbiased, uniform, and of all alike."""

from absl.testing import absltest
from absl.testing import parameterized
from influence_problems import all_alike
from influence_problems import edit
from influence_problems import EXACT
from influence_problems import hessian_of
from influence_problems import make
from influence_problems import mean_of
from influence_problems import restack
from influence_problems import setup
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods import curvature

_draw = jax.jit(curvature.draw, static_argnames='samples')


class CurvatureTest(parameterized.TestCase):
  @parameterized.parameters('gauss_newton', 'hessian')
  def test_mean_of_the_diagonal_is_unbiased(self, kind):
    params, _, retain = setup()
    rows = P.real_rows(jax.tree.map(np.concatenate, dict(retain)))
    dense = hessian_of(P.as_float64(params), rows)
    keys = jax.random.split(jax.random.key(1), 400)
    means = jax.vmap(lambda k: mean_of(params, retain, k, kind)[1])(keys)
    want = np.trace(dense) / len(dense)
    error = np.std(means) / np.sqrt(len(keys))
    self.assertGreater(error, 0)
    self.assertLess(abs(np.mean(means) - want), 4 * error)
    self.assertLess(error, 0.05 * want)

  def test_draw_depends_on_key_and_ids_alone(self):
    _, _, retain = setup()
    order = np.random.default_rng(0).permutation(20)
    key = jax.random.key(3)

    def ids(stacked):
      drawn = _draw(stacked, 6, key)
      rows = P.real_rows(jax.tree.map(np.concatenate, dict(drawn)))
      features = np.round(np.float64(rows['features']).sum(1), 4)
      return rows['id'].tolist(), features.tolist()

    want = ids(retain)
    self.assertLen(set(want[0]), 6)
    for other in (restack(retain, 3, order), restack(retain, 20)):
      self.assertEqual(ids(other), want)

  def test_draw_is_uniform_over_the_rows_that_count(self):
    _, _, retain = setup()

    def chosen(key):
      drawn = curvature.draw(retain, 6, key)
      ids = jnp.where(drawn['mask'] > 0, drawn['id'], -1)
      return jnp.bincount(ids.ravel() + 1, length=29)[1:], drawn['mask'].sum()

    keys = jax.random.split(jax.random.key(0), 500)
    counts, total = jax.jit(jax.vmap(chosen))(keys)
    self.assertEqual(set(np.asarray(total)), {6.0})
    real = np.asarray(retain['mask']).ravel() > 0
    share = np.asarray(counts.sum(0)) / 500
    self.assertEqual(share[~real].max(), 0)
    want = 6 / 20
    error = np.sqrt(want * (1 - want) / 500)
    self.assertLess(np.abs(share[real] - want).max(), 4 * error)

  def test_draw_of_more_than_there_are_takes_all_that_count(self):
    _, _, retain = setup()
    # 20 of 28 rows count, and 24 are asked for.
    drawn = _draw(retain, 24, jax.random.key(0))
    rows = P.real_rows(jax.tree.map(np.concatenate, dict(drawn)))
    want = P.real_rows(jax.tree.map(np.concatenate, dict(retain)))
    self.assertEqual(sorted(rows['id']), sorted(want['id']))

  def test_examples_drawn_stand_for_all(self):
    params, forget, retain = setup()
    same = all_alike(retain)
    hyper = {**EXACT, 'weight_decay': 0.05}
    some, every = (
      edit(make('influence', n), params, forget, same, **hyper)[0]
      for n in (9, None)
    )
    P.assert_close(some, every, rtol=1e-4, atol=1e-5)

  def test_damping_of_a_part_is_that_of_all(self):
    params, forget, retain = setup()
    same = all_alike(retain)

    def mean_damping(samples):
      """Up to a constant: the step is then the gradient over the damping."""
      method, hyper = make('influence', samples), {**EXACT, 'damping': 1e5}
      reports = [
        edit(method, params, forget, same, key, **hyper)[1] for key in range(10)
      ]
      return np.mean([1 / report['step_norm'] for report in reports])

    self.assertBetween(mean_damping(9) / mean_damping(None), 0.75, 1.33)


if __name__ == '__main__':
  absltest.main()
