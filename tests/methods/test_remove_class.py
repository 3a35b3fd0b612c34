"""Fisher forgetting that removes a class of the head as well."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P

from unlearn_jax.methods.fisher_forgetting import ClassHead
from unlearn_jax.methods.fisher_forgetting import fisher_forgetting
from unlearn_jax.methods.fisher_forgetting import remove_class
from unlearn_jax.training import loop

HYPER = {'noise': 1e-4, 'exponent': 0.3, 'offset': 1e-3, 'max_std': 0.11}


def edit(method, params, retain):
  state = loop.init(method, params, jax.random.key(0))
  return loop.prepare(method, state, None, retain)


class RemoveClassTest(parameterized.TestCase):
  def params(self):
    # The hidden layer is as wide as the head has classes.
    return {
      'hidden': {'kernel': jnp.full((3, 3), 2.0)},
      'head': {'kernel': jnp.full((4, 3), 3.0), 'bias': jnp.full(3, 4.0)},
      'head_0': {'bias': jnp.full(3, 5.0)},
    }

  def test_only_that_class_of_the_head_is_drawn_anew(self):
    params = self.params()
    std = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
    mean, std = remove_class(params, std, ClassHead('head', 1))
    for tree, old, new in ((mean, params, 0.0), (std, None, 1e-2)):
      for name in ('kernel', 'bias'):
        got = np.asarray(tree['head'][name])
        np.testing.assert_allclose(got[..., 1], new)
        want = 0.5 if old is None else old['head'][name][..., ::2]
        np.testing.assert_array_equal(got[..., ::2], want + 0 * got[..., ::2])
      for other in ('hidden', 'head_0'):
        want = old or jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
        P.assert_identical(tree[other], want[other])

  def test_as_an_option_of_the_method(self):
    params, retain = P.make_params(), P.make_batches(2, 4, 7, padding=2)
    tree = {'head': params}

    def inner(fun):
      return lambda tree, batch: fun(tree['head'], batch)

    method = fisher_forgetting(
      inner(P.loss_fn),
      inner(P.predict_fn),
      class_head=ClassHead('head', 2),
      **HYPER,
    )
    got = edit(method, tree, retain).params['head']
    plain = fisher_forgetting(P.loss_fn, P.predict_fn, **HYPER)
    want = edit(plain, params, retain).params
    for name in want:
      self.assertLess(np.abs(got[name][..., 2]).max(), 0.05)
      self.assertTrue((got[name][..., 2] != 0).all())
      np.testing.assert_allclose(
        got[name][..., :2], want[name][..., :2], rtol=1e-6
      )

  @parameterized.parameters(
    ('head', 3, r'label must be in \[0, 2\], got 3'),
    ('head', -1, r'label must be in \[0, 2\], got -1'),
    ('tail', 0, 'name none of them'),
  )
  def test_bounds(self, block, label, message):
    params = self.params()
    with self.assertRaisesRegex(ValueError, message):
      remove_class(params, params, ClassHead(block, label))

  def test_a_block_that_is_no_linear_head(self):
    params = {'head': {'kernel': jnp.ones((4, 3)), 'scale': jnp.ones(4)}}
    message = r'must end in one axis of classes, got \[\(3,\), \(4,\)\]'
    with self.assertRaisesRegex(ValueError, message):
      remove_class(params, params, ClassHead('head', 0))
    params = {'head': jnp.ones(())}
    with self.assertRaisesRegex(ValueError, r'got \[\(\)\]'):
      remove_class(params, params, ClassHead('head', 0))


if __name__ == '__main__':
  absltest.main()
