"""Verdicts: matches, under, over, damaged."""

import math

from absl.testing import absltest
from absl.testing import parameterized

from unlearn_jax.evaluation.metric_card import is_damaged
from unlearn_jax.evaluation.metric_card import judge

NAN = math.nan
IDEAL = (0.96, 0.94, 0.98)


def forget_accuracy(value, *, damaged=False, floor=0.015):
  return judge(
    value,
    IDEAL,
    floor,
    direction='match',
    forgotten='below',
    damaged=damaged,
  )


class JudgeTest(parameterized.TestCase):
  def test_worked_example(self):
    # EX30.
    self.assertEqual(forget_accuracy(0.95), ('matches', False))
    self.assertEqual(forget_accuracy(0.11), ('over', True))
    self.assertEqual(forget_accuracy(0.11, damaged=True), ('damaged', True))

  @parameterized.parameters(
    (0.926, 'matches'), (0.924, 'over'), (0.994, 'matches'), (0.996, 'under')
  )
  def test_noise_floor_widens_the_interval(self, value, verdict):
    self.assertEqual(forget_accuracy(value)[0], verdict)

  def test_unknown_ideal_or_value(self):
    for value, ideal in ((NAN, IDEAL), (0.5, (NAN, NAN, NAN))):
      got = judge(
        value,
        ideal,
        0.0,
        direction='match',
        forgotten='below',
        damaged=True,
      )
      self.assertEqual(got, ('no reference', None))

  @parameterized.parameters(
    ('higher', 1.0, 'matches'),
    ('higher', 0.5, 'under'),
    ('lower', 0.5, 'matches'),
    ('lower', 1.0, 'under'),
    ('match', 1.0, 'under'),
    ('match', 0.5, 'under'),
  )
  def test_without_a_side_of_too_forgotten(self, direction, value, verdict):
    got = judge(
      value, IDEAL, NAN, direction=direction, forgotten=None, damaged=False
    )
    self.assertEqual(got, (verdict, None))

  def test_no_interval_is_the_ideal_alone(self):
    for value, verdict in ((0.96, 'matches'), (0.95, 'over')):
      got = judge(
        value,
        (0.96, NAN, NAN),
        NAN,
        direction='match',
        forgotten='below',
        damaged=False,
      )
      self.assertEqual(got[0], verdict)

  def test_damage_is_three_noise_floors_of_utility(self):
    def damaged(value):
      return is_damaged(False, {'accuracy.test': (value, IDEAL, 0.01)})

    self.assertFalse(damaged(0.92))
    self.assertTrue(damaged(0.90))
    self.assertFalse(damaged(1.0))
    self.assertTrue(is_damaged(True, {}))


if __name__ == '__main__':
  absltest.main()
