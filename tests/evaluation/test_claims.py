"""Claims judged on records whose answer is known."""

import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.stats
import studies
from studies import block
from studies import card
from studies import method
from studies import shifted

from unlearn_jax.evaluation import claims
from unlearn_jax.evaluation import control_claims
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.results_block import Block


def judged(name, *blocks, populations=None):
  found = {c.name: c for c in claims.judge_claims(blocks, populations)}
  return found[name]


class EquivalenceTest(parameterized.TestCase):
  def test_two_one_sided_tests(self):
    """Against the two tests of SciPy."""
    first, second = np.array(shifted(0.005, 0.01)), np.array(studies.RETRAINED)
    sides = [
      scipy.stats.ttest_1samp(first - second, -0.02, alternative='greater'),
      scipy.stats.ttest_1samp(first - second, 0.02, alternative='less'),
    ]
    want = max(side.pvalue for side in sides)
    got = statistics.equivalence_p(first, second, 0.02)
    self.assertAlmostEqual(got, want, places=12)

  @parameterized.parameters((0.5, 0.0), (1.0, 1.0), (2.0, 1.0))
  def test_equal_differences(self, by, want):
    first = np.arange(4.0) + by
    self.assertEqual(statistics.equivalence_p(first, np.arange(4.0), 1), want)

  def test_too_few_and_bad(self):
    one = np.ones(1)
    self.assertTrue(math.isnan(statistics.equivalence_p(one, one, 1)))
    with self.assertRaisesRegex(ValueError, 'margin must be > 0, got 0.'):
      statistics.equivalence_p(one, one, 0)
    with self.assertRaisesRegex(ValueError, 'same seeds, got 1 and 2.'):
      statistics.equivalence_p(one, np.ones(2), 1)


class ClaimsTest(parameterized.TestCase):
  def test_nothing_is_tested_without_records(self):
    self.assertEqual(
      {c.verdict for c in claims.judge_claims([])}, {'not tested'}
    )

  def test_one_seed_decides_nothing_that_is_paired(self):
    names = ('npo', 'superloss:npo', 'random_label', 'salun')
    one = {
      name: {k: dataclasses.replace(c, values=c.values[:1]) for k, c in own}
      for name, own in ((n, method().items()) for n in names)
    }
    found = {c.name: c for c in claims.judge_claims([block(**one)])}
    for name in ('C1', 'C3a', 'C6'):
      self.assertEqual(found[name].verdict, 'not tested', name)

  def test_methods_that_were_not_run_decide_nothing(self):
    found = block(gradient_ascent=method(), random_label=method())
    self.assertEqual(judged('C2', found).verdict, 'not tested')
    self.assertEqual(judged('C3a', found).verdict, 'not tested')

  @parameterized.parameters(
    # Within the floor of 0.02, surely beyond it, and within it but damaged.
    (shifted(0.0), False, 'not supported'),
    (shifted(0.05), False, 'supported'),
    (shifted(0.0), True, 'supported'),
    # Not different, but so unsure that nothing is equivalent.
    (shifted(0.0, 0.1), False, 'supported'),
  )
  def test_c1(self, forget, damaged, want):
    found = judged('C1', block(npo=method(forget, damaged=damaged)))
    self.assertEqual(found.verdict, want)
    count = int(want != 'supported')
    names = ': npo' if count else ''
    self.assertEqual(
      found.evidence, (f'kws sample:5%: {count} of 1 methods{names}.',)
    )

  @parameterized.parameters(
    (('bad_teacher', 'scrub'), 'supported'),
    (('gradient_ascent', 'scrub'), 'not supported'),
    ((), 'not supported'),
  )
  def test_c2(self, collapsed, want):
    names = ('gradient_ascent', 'bad_teacher', 'scrub')
    made = {name: method() for name in names}
    for name in collapsed:
      test = dataclasses.replace(made[name]['accuracy.test'], collapsed=True)
      made[name]['accuracy.test'] = test
    found = judged('C2', block(**made))
    self.assertEqual(found.verdict, want)
    self.assertIn(f'{len(collapsed)} of 3 collapsed', found.evidence[0])

  @parameterized.parameters(
    (0.01, False, 'supported'),
    (0.01, True, 'not supported'),
    (0.03, False, 'not supported'),
  )
  def test_c6(self, gap, damaged, want):
    weighed = method(gap=gap, damaged=damaged)
    found = judged(
      'C6', block(**{'npo': method(gap=0.02), 'superloss:npo': weighed})
    )
    self.assertEqual(found.verdict, want)
    self.assertLen(found.evidence, 1)

  @parameterized.parameters(
    (0.05, 0.05, 'supported'),
    (0.05, 0.0, 'not supported'),
    (-0.05, -0.05, 'not supported'),
    (0.015, 0.015, 'not supported'),  # Above, but not above the floor.
  )
  def test_c3(self, relabelled, salient, want):
    found = judged(
      'C3a',
      block(
        random_label=method(shifted(relabelled)),
        salun=method(shifted(salient)),
      ),
    )
    self.assertEqual(found.verdict, want)

  @parameterized.parameters((0.05, 'supported'), (0.01, 'not supported'))
  def test_c4_compares_with_the_sample_of_nearest_size(self, gap, want):
    blocks = [
      block(size=50, npo=method(gap=0.5)),
      block(request='sample:10%', size=190, npo=method(gap=0.02)),
      block(
        request='keyword:up', kind='keyword', size=200, npo=method(gap=gap)
      ),
      # For keywords, a speaker is no class.
      block(request='speaker:a', kind='speaker', npo=method(gap=9.0)),
    ]
    found = judged('C4', *blocks)
    self.assertEqual(found.verdict, want)
    self.assertLen(found.evidence, 1)
    self.assertStartsWith(
      found.evidence[0], 'kws keyword:up against sample:10%'
    )

  @parameterized.parameters(
    ([0.6, 0.61, 0.6, 0.59, 0.6], 'supported'),
    ([0.5, 0.7, 0.5, 0.7, 0.5], 'not supported'),
  )
  def test_c5(self, attack, want):
    found = judged('C5', block(npo=method(attack=attack)))
    self.assertEqual(found.verdict, want)

  def test_c5_with_populations(self):
    ulira = card('ulira.accuracy', [0.8] * 5, ideal=0.5, ideal_ci_high=0.51)
    population = Block(
      'kws', 'sample:5%', 'sample', {'npo': {'ulira.accuracy': ulira}}
    )
    found = judged(
      'C5',
      block(npo=method(), ssd=method()),
      populations={'kws sample:5%': population},
    )
    self.assertEqual(
      found.evidence,
      (
        'kws sample:5%, mia.loss_threshold.auc: above for 0 of 2.',
        'kws sample:5%, ulira.accuracy: above for 1 of 1: npo.',
      ),
    )
    self.assertEqual(found.verdict, 'not supported')


MAIN = {'corpus': 'speech', 'epochs': 60}


def control(**differs):
  return {**MAIN, **differs, 'condition': 'a control'}


class ControlTest(parameterized.TestCase):
  def test_controls_have_no_say_in_claims_of_the_main_study(self):
    far = block(condition=control(epochs=9), npo=method(shifted(0.0)))
    self.assertEqual(judged('C1', far).verdict, 'not tested')

  @parameterized.parameters(
    (0.01, 0.01, 'supported'),
    (0.05, 0.01, 'not supported'),
    (0.06, 0.06, 'not supported'),
  )
  def test_c3b(self, relabelled, salient, want):
    def study(by, salun, condition):
      methods = {
        'random_label': method(shifted(by)),
        'salun': method(shifted(salun)),
      }
      return block(condition=condition, **methods)

    found = judged(
      'C3b',
      study(0.05, 0.05, MAIN),
      study(relabelled, salient, control(frames='shuffled')),
      # Another corpus besides: differs in two things.
      study(-1.0, -1.0, control(frames='shuffled', corpus='other')),
    )
    self.assertEqual(found.verdict, want)
    self.assertLen(found.evidence, 2)
    self.assertIn('frames shuffled, random_label: excess', found.evidence[0])

  @parameterized.parameters((0.06, 'supported'), (0.02, 'not supported'))
  def test_c7(self, gap, want):
    speech, images = control_claims.SPEECH, control_claims.IMAGES
    found = judged(
      'C7',
      block(npo=method(gap=9.0), condition=MAIN),
      block(npo=method(gap=gap), condition=control(corpus=speech)),
      block(npo=method(gap=0.03), condition=control(corpus=images)),
    )
    self.assertEqual(found.verdict, want)
    self.assertLen(found.evidence, 1)
    self.assertRegex(
      found.evidence[0], 'for [01] of 1 methods; original models have 9'
    )

  @parameterized.parameters((0.06, 'supported'), (0.02, 'not supported'))
  def test_q1(self, gap, want):
    found = judged(
      'Q1',
      block(npo=method(gap=0.03), condition=MAIN),
      block(npo=method(gap=gap), condition=control(epochs=240)),
    )
    self.assertEqual(found.verdict, want)
    self.assertStartsWith(
      found.evidence[0], 'kws sample:5%, 240 epochs against 60: larger for'
    )

  @parameterized.parameters((0.5, 'supported'), (0.8, 'not supported'))
  def test_q2(self, accuracy, want):
    def population(value):
      ulira = card('ulira.accuracy', [value] * 5, ideal=0.5, ideal_ci_high=0.51)
      return {'ulira.accuracy': ulira}

    seen = Block(
      'kws',
      'sample:5%',
      'sample',
      {'npo': population(accuracy), 'scrub': population(0.5)},
    )
    found = judged(
      'Q2',
      # The attack finds scrub already, so that it does not look good.
      block(npo=method(), scrub=method(attack=[0.6] * 5), ssd=method()),
      populations={'kws sample:5%': seen},
    )
    self.assertEqual(found.verdict, want)
    kept = int(want == 'supported')
    self.assertStartsWith(
      found.evidence[0], f'kws sample:5%: {kept} of 1 survive'
    )


if __name__ == '__main__':
  absltest.main()
