"""Results of studies, made up, whose answers are known."""

import dataclasses
import math

import numpy as np

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.results_block import Block

RETRAINED = [0.90, 0.92, 0.91, 0.93, 0.89]
TEMPLATE = MetricCard(
  name='',
  version=1,
  value=0.0,
  ci_low=0.0,
  ci_high=0.0,
  ci_method='t',
  n_seeds=5,
  n_examples=100,
  values=(),
  ideal=0.0,
  ideal_kind='retrain',
  ideal_ci_low=math.nan,
  ideal_ci_high=math.nan,
  direction='match',
  gap=0.0,
  noise_floor=0.02,
  over_unlearned=None,
  collapsed=False,
  verdict='matches',
)


def card(name, values, **fields):
  interval = statistics.t_interval(np.array(values))
  return dataclasses.replace(
    TEMPLATE,
    name=name,
    value=interval.mean,
    ci_low=interval.low,
    ci_high=interval.high,
    values=tuple(values),
    **fields,
  )


def method(forget=RETRAINED, gap=0.01, size=100, attack=None, damaged=False):
  """Cards of one method."""
  cards = [
    card('accuracy.forget', forget, n_examples=size),
    card('accuracy.retain', [0.99] * 5),
    card(
      'accuracy.test',
      [0.9] * 5,
      verdict='damaged' if damaged else 'matches',
    ),
    card('average_gap', [gap] * 5, noise_floor=0.01),
    card(
      'mia.loss_threshold.auc',
      attack or [0.5] * 5,
      ideal=0.5,
      ideal_ci_low=0.45,
      ideal_ci_high=0.55,
    ),
  ]
  return {c.name: c for c in cards}


def block(
  task='kws',
  request='sample:5%',
  kind='sample',
  size=100,
  condition=(),
  **methods,
):
  methods = {
    'original': method(size=size),
    'retrain': method(size=size),
    **methods,
  }
  cards = {
    name: {
      c.name: dataclasses.replace(c, provenance={'method': name})
      for c in own.values()
    }
    for name, own in methods.items()
  }
  return Block(task, request, kind, cards, **dict(condition))


def shifted(by, wobble=0.001):
  """Forget accuracies that lie so far from retraining's."""
  return [x + by + wobble * (-1) ** i for i, x in enumerate(RETRAINED)]
