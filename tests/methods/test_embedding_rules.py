"""Rules on embeddings beside float64 twins, and their limit cases.

The embedding of the small models here is their logits.
"""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import problems as P
import scipy.linalg
import scipy.special
from sklearn.linear_model import LogisticRegression

from unlearn_jax.methods import adversarial_probe as probes
from unlearn_jax.methods import embedding_scrub as scrubs
from unlearn_jax.methods import subspace_projection as projections
from unlearn_jax.methods.fine_tune import fine_tune
from unlearn_jax.methods.registry import spec


def first_batches():
  """A forget and a retain batch, the last rows of which are padding."""
  return (
    P.step_of(P.make_batches(1, 2, 5, padding=1), 0),
    P.step_of(P.make_batches(2, 2, 7, padding=2), 0),
  )


class EmbeddingScrubTest(parameterized.TestCase):
  @parameterized.parameters('generic', 'random')
  def test_direction_beside_numpy(self, reference):
    params, original, random = (P.make_params(s) for s in (0, 1, 2))
    forget, retain = first_batches()
    weight = 0.7
    got, _ = scrubs.embedding_scrub_direction(
      params,
      forget,
      retain,
      embed_fn=P.predict_fn,
      predict_fn=P.predict_fn,
      original=original,
      random=random if reference == 'random' else None,
      retain_weight=weight,
      output_weight=0.4,
    )
    params, original, random = map(P.as_float64, (params, original, random))
    forget, retain = P.real_rows(forget), P.real_rows(retain)
    before, kept = (P.twin_logits(original, b) for b in (forget, retain))
    if reference == 'random':
      target = P.twin_logits(random, forget)
      target *= np.linalg.norm(before, axis=1, keepdims=True)
      target /= np.linalg.norm(P.twin_logits(random, forget), axis=1)[:, None]
    else:
      target = before - before.mean(0) + kept.mean(0)
    variance = kept.var(0).sum()
    moved = 2 * (P.twin_logits(params, forget) - target)
    logits = P.twin_logits(params, retain)
    drift = 2 * (logits - kept)
    kl = P.twin_kl_gradient(kept, logits)
    gone = np.exp(P.twin_log_softmax(before))
    gone[np.arange(len(gone)), forget['label']] = 0
    gone /= gone.sum(1, keepdims=True)
    now = np.exp(P.twin_log_softmax(P.twin_logits(params, forget)))
    want = P.add(
      (0.4, P.twin_pullback(forget, (now - gone) / len(gone))),
      (1, P.twin_pullback(forget, moved / variance / len(moved))),
      (weight, P.twin_pullback(retain, drift / variance / len(drift))),
      (weight, P.twin_pullback(retain, kl / len(kl))),
    )
    P.assert_close(got, want, rtol=1e-4)

  def test_nothing_to_move_is_the_identity(self):
    # Where both sets are the same, the generic target is where they are.
    params = P.make_params()
    batch, _ = first_batches()
    got, metrics = scrubs.embedding_scrub_direction(
      params,
      batch,
      batch,
      embed_fn=P.predict_fn,
      predict_fn=P.predict_fn,
      original=params,
      random=None,
      retain_weight=1.0,
    )
    P.assert_close(got, jax.tree.map(np.zeros_like, params), atol=1e-6)
    self.assertLess(float(metrics['forget_distance']), 1e-10)

  def test_forgotten_embeddings_reach_their_target(self):
    forget, retain = (P.make_batches(s, 1, 4) for s in (1, 2))
    forget = P.steps_of(forget, [0] * 400)
    retain = P.steps_of(retain, [0] * 400)
    method = scrubs.embedding_scrub(
      P.predict_fn, P.predict_fn, P.init_fn, P.sgd(0.05), retain_weight=0.0
    )
    _, metrics = P.run(method, P.make_params(), forget, retain)
    start, *_, end = metrics['forget_distance']
    self.assertLess(end, 1e-2 * start)

  @parameterized.parameters(
    ({'reference': 'nobody'}, "reference must be 'generic' or 'random'"),
    ({'retain_weight': -1.0}, 'retain_weight must be >= 0, got -1'),
  )
  def test_bad_options(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      scrubs.embedding_scrub(
        P.predict_fn, P.predict_fn, P.init_fn, P.sgd(), **options
      )


def two_groups(size=60, d=5, seed=0):
  """Correlated embeddings, one group shifted; float64 [size, d] each."""
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(d, d))
  retain = rng.normal(size=(3 * size, d)) @ mix + 1.0
  forget = rng.normal(size=(size, d)) @ mix + rng.normal(size=d) * 2
  return forget, retain


def moments_of(h):
  h = jnp.asarray(h, jnp.float32)
  return projections.Moments(jnp.float32(len(h)), h.sum(0), h.T @ h)


def erased(forget, retain, **options):
  pair = projections.erasing_map(
    moments_of(forget), moments_of(retain), **options
  )
  matrix, offset = (np.asarray(x, np.float64) for x in pair)
  return [h @ matrix + offset for h in (forget, retain)]


class SubspaceProjectionTest(parameterized.TestCase):
  def test_least_squares_concept_erasure_by_whitening(self):
    # The formula of the paper: x - W^+ P W (x - mean), P on span(W cov(x, z)).
    forget, retain = two_groups()
    h = np.concatenate([forget, retain])
    z = np.r_[np.ones(len(forget)), np.zeros(len(retain))]
    mean = h.mean(0)
    covariance = (h - mean).T @ (h - mean) / len(h)
    delta = (h - mean).T @ (z - z.mean()) / len(h)
    whiten = scipy.linalg.inv(scipy.linalg.sqrtm(covariance).real)
    u = whiten @ delta / np.linalg.norm(whiten @ delta)
    change = (h - mean) @ whiten.T @ np.outer(u, u)
    want = h - change @ scipy.linalg.inv(whiten).T
    got = np.concatenate(erased(forget, retain))
    np.testing.assert_allclose(got, want, atol=2e-4)

  def test_no_linear_probe_is_left(self):
    forget, retain = two_groups()
    z = np.r_[np.ones(len(forget)), np.zeros(len(retain))]

    def balanced_accuracy(sides):
      x = np.concatenate(sides)
      probe = LogisticRegression(class_weight='balanced').fit(x, z)
      right = probe.predict(x) == z
      return (right[z == 1].mean() + right[z == 0].mean()) / 2

    self.assertGreater(balanced_accuracy([forget, retain]), 0.8)
    self.assertLess(balanced_accuracy(erased(forget, retain)), 0.6)

  def test_strength_zero_is_the_identity(self):
    forget, retain = two_groups()
    got = erased(forget, retain, strength=0.0)
    np.testing.assert_allclose(got[0], forget, atol=1e-5)

  def test_equal_means_are_left_alone(self):
    h = np.asarray([[1.0, 2.0], [-1.0, 0.0], [0.0, 1.0]])
    got = erased(h, h)
    np.testing.assert_allclose(got[0], h, atol=1e-5)

  def test_a_direction_without_variance_is_left_alone(self):
    forget, retain = (np.pad(h, ((0, 0), (0, 1))) for h in two_groups())
    got = erased(forget, retain)
    self.assertTrue(np.isfinite(got[0]).all())
    np.testing.assert_allclose(got[0].mean(0), got[1].mean(0), atol=1e-3)

  def test_the_map_is_folded_into_the_parameters(self):
    forget, retain = P.make_batches(1, 3, 9, padding=2), P.make_batches(2, 3, 9)
    params = P.make_params()
    method = projections.subspace_projection(
      P.predict_fn, P.map_output, ridge=0.0
    )
    state, _ = P.run(method, params, forget, retain, prepare=True)
    means = []
    for stacked in (forget, retain):
      keep = np.asarray(stacked['mask']) > 0
      h = np.stack(
        [
          P.predict_fn(state.params, P.step_of(stacked, k))
          for k in range(len(keep))
        ]
      )[keep]
      means.append(h.mean(0))
    np.testing.assert_allclose(means[0], means[1], atol=1e-4)

  def test_without_an_embedding_it_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'embed_fn must be given, got None'):
      projections.subspace_projection(None, P.map_output)


class AdversarialProbeTest(parameterized.TestCase):
  def test_direction_beside_numpy(self):
    params = P.make_params()
    probe = probes.Probe(jnp.asarray([0.5, -1.0, 0.25]), jnp.asarray(0.3))
    forget, retain = first_batches()
    reversal = 0.6
    (got, got_probe), metrics = probes.adversarial_probe_direction(
      params,
      probe,
      forget,
      retain,
      loss_fn=P.loss_fn,
      embed_fn=P.predict_fn,
      reversal=reversal,
    )
    weight, bias = (np.asarray(x, np.float64) for x in probe)
    params = P.as_float64(params)
    batches = [P.real_rows(b) for b in (forget, retain)]
    sides = [P.twin_logits(params, b) for b in batches]
    unit = 1 / np.sqrt((sides[1] ** 2).mean())
    terms, probe_gradient, loss = [], np.zeros(4), 0.0
    for sign, batch, h in zip((1, -1), batches, sides, strict=True):
      told = unit * h @ weight + bias
      loss += 0.5 * np.log1p(np.exp(-sign * told)).mean()
      slope = -0.5 * sign * scipy.special.expit(-sign * told) / len(h)
      probe_gradient += np.r_[unit * h.T @ slope, slope.sum()]
      pulled = P.twin_pullback(batch, unit * np.outer(slope, weight))
      terms.append((-reversal, pulled))
    want = P.add((1, P.twin_loss_gradient(params, batches[1])), *terms)
    P.assert_close(got, want, rtol=1e-4)
    np.testing.assert_allclose(
      np.r_[got_probe.weight, got_probe.bias], probe_gradient, rtol=1e-4
    )
    np.testing.assert_allclose(metrics['probe_loss'], loss, rtol=1e-5)

  def test_without_reversal_it_is_fine_tuning(self):
    forget, retain = P.make_batches(1, 4, 5), P.make_batches(2, 4, 7)
    method = probes.adversarial_probe(
      P.loss_fn, P.predict_fn, P.sgd(), embedding_size=3, reversal=0.0
    )
    got, _ = P.run(method, P.make_params(), forget, retain)
    want, _ = P.run(
      fine_tune(P.loss_fn, P.sgd()), P.make_params(), None, retain
    )
    P.assert_close(got.params, want.params)

  def test_a_probe_that_knows_nothing_loses_one_bit(self):
    probe = probes.Probe(jnp.zeros(3), jnp.zeros(()))
    h = jnp.ones((4, 3))
    loss = probes.probe_loss(probe, h, h, (jnp.ones(4), jnp.ones(4)))
    self.assertAlmostEqual(float(loss), np.log(2), places=6)

  def test_bad_options(self):
    with self.assertRaisesRegex(ValueError, 'reversal must be >= 0, got -1'):
      probes.adversarial_probe(
        P.loss_fn, P.predict_fn, P.sgd(), embedding_size=3, reversal=-1.0
      )
    with self.assertRaisesRegex(ValueError, 'embedding_size must be >= 1'):
      spec('adversarial_probe').build(
        dataclasses.replace(P.PROBLEM, embedding_size=0), P.sgd()
      )


if __name__ == '__main__':
  absltest.main()
