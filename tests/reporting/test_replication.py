"""The replication of the published recipe, as text."""

from unlearn_jax.reporting import replication
from unlearn_jax.reporting import results

RECORD = {
  'title': 'SCRUB, raw-logit KL (suspected artefact), lambda 1',
  'seed': 0,
  'corpus': 'speech_commands/12',
  'forget': 'sample:5%',
  'rule_epochs': 20,
  'diverged': False,
  'test_accuracy': 0.0834,
  'forget_accuracy': 0.132,
  'retain_accuracy': 0.69,
  'validation_accuracy': 0.6209,
  'most_frequent_answer': '_unknown_',
  'most_frequent_share': 1.0,
  'largest_logit': 414.75,
  'collapsed': True,
  'constant': {
    'answer': '_unknown_',
    'training': 0.637,
    'validation': 0.6209,
    'test': 0.0834,
  },
}


def test_constant_and_rule_stand_side_by_side():
  lines = replication.to_markdown([RECORD]).splitlines()
  assert lines[2] == (
    '* Seed 0: always answering `_unknown_`, most frequent in training '
    '(63.70 %), has 8.34 % on the test and 62.09 % on the validation set.'
  )
  assert lines[-1] == (
    '| SCRUB, raw-logit KL (suspected artefact), lambda 1 | 8.34 | 13.20 | '
    '69.00 | 62.09 | _unknown_ | 100.0 | 415 | yes |'
  )


def test_seeds_are_told_apart():
  text = replication.to_markdown([RECORD, {**RECORD, 'seed': 1}])
  assert '* Seed 1: always' in text and '| seed 1: SCRUB' in text


def test_results_have_a_section_for_it():
  text = results.results_markdown('x', [], [], {}, [], [], [[RECORD]])
  assert '## The published recipe\n\nspeech_commands/12, sample:5%' in text
  without = results.results_markdown('x', [], [], {}, [], [])
  assert 'published recipe' not in without
