"""The published recipe: its wrong twins, its labels, and the job."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import paper_rules
from experiments import paper_table
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import Subsets
from unlearn_jax.methods import registry
from unlearn_jax.methods.spec import Problem
from unlearn_jax.reporting import replication
from unlearn_jax.training import fit
from unlearn_jax.training import losses
from unlearn_jax.training.fit import NonFiniteLossError
from unlearn_jax.types import InputError

FLAGS = (
  '--rules=bad_t_raw_1',
  '--forget=sample:10%',
  '--rule_epochs=4',
  '--rule_batch_size=20',
)


def table_fn(params, batch):
  """A model whose parameters are its logits: a row for each example."""
  return params[batch['id']]


TABLE = Problem(
  loss_fn=losses.cross_entropy(table_fn),
  predict_fn=table_fn,
  init_fn=lambda key: jax.random.normal(key, (5, 3)),
)


def batch(ids, labels=(0, 1, 2)):
  return {
    'id': jnp.array(ids),
    'label': jnp.array(labels[: len(ids)]),
    'mask': jnp.ones(len(ids)),
  }


def no_batch():
  return batch([0]) | {'mask': jnp.zeros(1)}


def gradient(rule, params, forget, retain, original=None):
  """Returns the direction of a rule, whose teacher may be another model."""
  method = paper_rules.RULES[rule].build(TABLE, optax.sgd(1.0))
  state = method.init(
    params if original is None else original, jax.random.key(0)
  )
  moved = method.update(params, state, forget, retain, jax.random.key(1))[0]
  return params - moved, state.frozen


@pytest.fixture
def params():
  return jax.random.normal(jax.random.key(7), (5, 3))


@pytest.mark.parametrize('scale', [1.0, 100.0])
def test_raw_logits_push_by_the_teacher_wherever_the_student_is(params, scale):
  student = scale * jnp.ones_like(params) - params
  forget, retain = batch([0, 1]), batch([2, 3, 4])
  found, frozen = gradient('bad_t_raw_1', student, forget, retain, params)
  teacher = jnp.concatenate([frozen['bad'][:2], params[2:]])
  np.testing.assert_allclose(found, -teacher / 5, rtol=1e-4, atol=1e-5 * scale)
  found, frozen = gradient('bad_t_raw_0', student, forget, no_batch(), params)
  expected = np.zeros((5, 3))
  expected[:2] = -frozen['bad'][:2] / 2
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)
  found, _ = gradient('scrub_raw_0', student, forget, no_batch(), params)
  expected[:2] = params[:2] / 2
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)


def test_the_min_steps_add_the_loss(params):
  none, retain = no_batch(), batch([2, 3, 4])
  found, _ = gradient('scrub_raw_1', params, none, retain)
  loss = jax.nn.softmax(params[2:]) - np.eye(3)
  np.testing.assert_allclose(found[2:], (loss - params[2:]) / 3, atol=1e-6)


@pytest.mark.parametrize('rule', ['bad_t', 'scrub'])
def test_correct_divergence_stands_still_where_raw_logits_push(params, rule):
  """The student is its teacher: only the loss of SCRUB may move it."""
  none, retain = no_batch(), batch([2, 3, 4])
  raw, _ = gradient(f'{rule}_raw_1', params, none, retain)
  correct, _ = gradient(f'{rule}_kl_1', params, none, retain)
  np.testing.assert_allclose(raw[2:], correct[2:] - params[2:] / 3, atol=1e-6)


def test_shifted_label_is_the_next_class_and_the_last_the_first(params):
  forget, retain = batch([0, 1, 2]), batch([3, 4])
  found, _ = gradient('rand_label', params, forget, retain)
  label = [1, 2, 0, 0, 1]  # (0, 1, 2) + 1 mod 3, and those of the retain set.
  expected = (jax.nn.softmax(params) - np.eye(3)[label]) / 5
  np.testing.assert_allclose(found, expected, atol=1e-6)


def masks(rule, epoch, epochs=8):
  sides = paper_rules.RULES[rule].epoch_batches(
    np.arange(10),
    np.arange(10, 100),
    epoch=epoch,
    epochs=epochs,
    batch_size=20,
    rng=np.random.default_rng(0),
  )
  return [(side.rows.shape, int(side.mask.sum())) for side in sides]


def test_layouts():
  # D_f is a tenth: two of twenty. All of D_r is seen once.
  assert masks('bad_t_kl_1', 0) == [((5, 2), 10), ((5, 18), 90)]
  assert masks('rand_label', 3) == masks('bad_t_kl_1', 0)
  alone = [((1, 20), 10), ((1, 1), 0)]
  assert masks('grad_ascent', 0) == masks('scrub_raw_0', 1) == alone
  # A quarter of eight epochs of max-steps, and as many of min-steps.
  assert [masks('scrub_kl_1', epoch) for epoch in range(4)] == [
    *[[((1, 20), 10), ((1, 20), 0)]] * 2,
    *[[((5, 20), 0), ((5, 20), 90)]] * 2,
  ]
  names = 'bad_t_raw_1', 'scrub_raw_1', 'scrub_raw_0'
  assert [paper_rules.RULES[n].epochs(8) for n in names] == [8, 4, 2]


def test_students_of_max_steps_begin_beside_their_teacher(params):
  key = jax.random.key(0)
  start = paper_rules.RULES['scrub_kl_0'].start(params, key)
  relative = np.abs(start / params - 1)
  assert 0 < relative.max() < 0.005
  assert paper_rules.RULES['bad_t_kl_0'].start(params, key) is params


def test_no_rule_is_a_method():
  assert not set(paper_rules.RULES) & set(registry.METHODS)


def test_constant_predictor_of_the_paper():
  """Speech Commands v0.01 with 12 labels, as in SUPERB."""
  # `unknown` is 0, `silence` 11; how the words share the rest is no matter.
  test = np.repeat(np.arange(12), [257, *[256] * 3, *[257] * 7, 257])
  validation = np.repeat(np.arange(12), [4_221, *[257] * 10, 7])
  assert (len(test), len(validation)) == (3_081, 6_798)
  labels = {
    'forget': np.zeros(4, int),
    'retain': np.array([0, 1]),
    'validation': validation,
    'test': test,
  }
  subsets = Subsets(labels, tuple(f'class {c}' for c in range(12)))
  always = paper_table.constant_predictor(subsets)
  assert always['answer'] == 'class 0'
  assert round(always['test'], 4) == 0.0834
  assert round(always['validation'], 4) == 0.6209
  logits = {name: -np.ones((len(x), 12)) for name, x in labels.items()}
  for x in logits.values():
    x[:, 0] = 400
  row = paper_table.judge(Outcome('x', 0, 0, logits, {}, {}), subsets)
  assert row['test_accuracy'] == always['test']
  assert row['most_frequent_answer'] == 'class 0'
  assert row['most_frequent_share'] == 1.0 and row['largest_logit'] == 400.0
  assert row['collapsed']


@pytest.fixture(scope='module')
def workdir(run_job, tmp_path_factory):
  """The folder of a finished job."""
  folder = tmp_path_factory.mktemp('job') / 'workdir'
  run_job('paper_table', f'--workdir={folder}', *FLAGS)
  return folder


def test_job_writes_records_and_table_and_resumes(workdir, run_job, capsys):
  path = workdir / 'paper_table.jsonl'
  before = path.read_bytes()
  records = [json.loads(line) for line in before.splitlines()]
  assert [r['rule'] for r in records] == ['original', 'bad_t_raw_1']
  assert [r['suspected_artefact'] for r in records] == [False, True]
  for record in records:
    assert 0 <= record['test_accuracy'] <= 1 and not record['diverged']
    assert record['largest_logit'] > 0 and record['forget'] == 'sample:10%'
  made = {p: p.stat().st_mtime_ns for p in workdir.rglob('outcome.npz')}
  assert len(made) == 2
  path.unlink()
  capsys.readouterr()
  run_job('paper_table', f'--flagfile={workdir / "flags.txt"}')
  assert {p: p.stat().st_mtime_ns for p in made} == made
  assert path.read_bytes() == before
  printed = capsys.readouterr().out
  assert 'Replicates a suspected artefact' in printed
  assert 'Seed 0: always answering `' in printed
  rows = [line for line in printed.splitlines() if line.startswith('|')]
  assert rows[0].startswith('| rule | Dt % | Df % | Dr % | validation % |')
  assert len(rows) == 4 and rows[2].startswith('| original | ')
  assert rows[3].startswith(
    '| Bad-T, raw-logit KL (suspected artefact), lambda'
  )


def test_a_rule_that_diverges_is_a_row_and_not_run_again(
  workdir, run_job, tmp_path, monkeypatch
):
  def diverge(*args, **options):
    raise NonFiniteLossError('forget_loss is inf at step 3.')

  folder = tmp_path / 'workdir'
  shutil.copytree(workdir, folder)
  flags = [f'--flagfile={workdir / "flags.txt"}', f'--workdir={folder}']
  for patched in (True, False):  # The second time nothing is run.
    with monkeypatch.context() as patch:
      if patched:
        patch.setattr(fit, 'fit', diverge)
      run_job('paper_table', *flags, '--rules=grad_ascent')
    failed = folder / 'seed_0' / 'grad_ascent' / 'failed.txt'
    assert failed.read_text() == 'forget_loss is inf at step 3.\n'
    lines = (folder / 'paper_table.jsonl').read_text().splitlines()
    last = json.loads(lines[-1])
    assert last['diverged'] and 'test_accuracy' not in last
  row = replication.to_markdown([last]).splitlines()[-1]
  assert row == f'| GradAscent, lambda 0 | diverged |{" - |" * 7}'


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    (
      '--rules=scrub',
      "--rules=scrub: 'scrub' is none of all, grad_ascent, ran",
    ),
    ('--rule_learning_rate=nan', '--rule_learning_rate must be >= 0, got nan'),
    ('--methods=scrub', '--methods: must not be given to paper_table'),
    ('--forget=everything', '--forget=everything: '),
  ],
)
def test_bad_flags(run_job, tmp_path, flag, message):
  with pytest.raises(InputError, match=message) as info:
    run_job('paper_table', f'--workdir={tmp_path}', flag)
  assert '\n' not in str(info.value)
