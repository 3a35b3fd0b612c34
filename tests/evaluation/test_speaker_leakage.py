"""What is left of a speaker: closed forms, limits and invariances."""

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics

from unlearn_jax.evaluation.metrics import METRICS
from unlearn_jax.evaluation.speaker_leakage import leakage
from unlearn_jax.evaluation.speaker_panel import ENROLLED
from unlearn_jax.evaluation.speaker_panel import make_panel

SPEAKERS, SESSIONS, KEYWORDS = 6, 10, 6
SPEAKER, SESSION, KEYWORD = (
  x.ravel() for x in np.indices((SPEAKERS, SESSIONS, KEYWORDS))
)
N, DIMS = len(SPEAKER), 12
PANEL = make_panel(SPEAKER, SESSION, KEYWORD, [0], seed=0)
COSINE = [
  name
  for name in METRICS
  if name.startswith(('leakage.eer', 'leakage.min_dcf', 'leakage.enrolment'))
  and not name.endswith('.trials')
]
OF_FORGOTTEN = {
  name
  for name in METRICS
  if name.startswith('leakage.')
  and name.endswith(('.forgotten', '.1', '.5', '.20', 'acy', 'auc', 'shuffled'))
} - {'leakage.enrolment_retained.5'}


def noise(seed=0, dims=DIMS):
  return np.random.default_rng(seed).normal(size=(N, dims))


def far(spread=0.01, seed=0):
  """Every speaker in a direction of their own."""
  return np.eye(SPEAKERS, DIMS)[SPEAKER] + spread * noise(seed)


def test_names_are_those_of_the_rows():
  rows = {name for name in METRICS if name.startswith('leakage.')}
  rows -= {'leakage.eer.trials', 'leakage.min_dcf.trials'}  # Of a list.
  assert set(leakage(PANEL, far())) == rows
  assert all(METRICS[name].examples is None for name in rows)


def test_speakers_far_apart_are_recognised_always():
  found = leakage(PANEL, far())
  for name, value in found.items():
    if name == 'leakage.probe.shuffled':
      assert abs(value - 0.5) < 0.15
    else:
      perfect = 0.0 if METRICS[name].direction == 'lower' else 1.0
      perfect = 0.0 if METRICS[name].forgotten == 'above' else perfect
      assert value == perfect, name


def test_voices_that_are_alike_are_at_chance():
  # Means over 10 models; of a share of n clips the error is that of a binomial.
  many = [leakage(PANEL, noise(seed)) for seed in range(10)]
  assert all(0 <= value <= 1 for found in many for value in found.values())
  found = {name: np.mean([v[name] for v in many]) for name in many[0]}
  own = SESSIONS * KEYWORDS

  def tolerance(chance, clips):
    return 4 * np.sqrt(chance * (1 - chance) / (clips * len(many)))

  for side in ('forgotten', 'retained'):
    assert abs(found[f'leakage.eer.{side}'] - 0.5) < tolerance(0.5, own)
    assert found[f'leakage.min_dcf.{side}'] > 0.95
  for name in ('accuracy', 'auc', 'shuffled'):
    assert abs(found[f'leakage.probe.{name}'] - 0.5) < tolerance(0.5, own)
  chance = 1 / SPEAKERS
  for clips in (1, 5, 20):
    share = found[f'leakage.enrolment.{clips}']
    assert abs(share - chance) < tolerance(chance, own - clips)
  assert abs(found['leakage.speaker_probe'] - chance) < tolerance(chance, N)


@pytest.mark.parametrize('value', [0.0, 0.1, 3.0])
def test_collapsed_model_knows_nobody(value):
  found = leakage(PANEL, np.full((N, DIMS), value, np.float32))
  for name, got in found.items():
    if 'min_dcf' in name:
      want = 1.0
    elif 'enrolment' in name or name == 'leakage.speaker_probe':
      want = 1 / SPEAKERS
    else:
      want = 0.5
    assert got == pytest.approx(want, abs=1e-12), name


def test_cosines_do_not_see_scale_and_rotation():
  x = far(spread=0.6)
  turn = np.linalg.qr(np.random.default_rng(1).normal(size=(DIMS, DIMS)))[0]
  length = np.random.default_rng(2).uniform(0.1, 10, (N, 1))
  before, after = leakage(PANEL, x), leakage(PANEL, length * (x @ turn))
  for name in COSINE:
    assert 0 < before[name] <= 1
    assert after[name] == pytest.approx(before[name], abs=1e-9), name
  # The others do not see a shift and a scale of all, as they standardise.
  moved = leakage(PANEL, 5.0 * x + 2.0)
  for name in set(before) - set(COSINE):
    assert moved[name] == pytest.approx(before[name], abs=1e-9), name


def test_order_of_utterances_does_not_matter():
  x = far(spread=0.6)
  order = np.random.default_rng(0).permutation(N)
  labels = SPEAKER[order], SESSION[order], KEYWORD[order]
  again = leakage(make_panel(*labels, [0], seed=0), x[order])
  assert again == leakage(PANEL, x)
  # Nor do names of speakers that sort alike.
  names = np.array([f'speaker {s}' for s in SPEAKER])
  named = make_panel(names, SESSION, KEYWORD, ['speaker 0'], seed=0)
  assert leakage(named, x) == again
  other = leakage(make_panel(SPEAKER, SESSION, KEYWORD, [0], seed=1), x)
  assert other != again


def test_projecting_a_speaker_out_hides_them():
  x = far(spread=0.3)
  direction = x[SPEAKER == 0].mean(0) - x[SPEAKER != 0].mean(0)
  direction /= np.linalg.norm(direction)
  before = leakage(PANEL, x)
  after = leakage(PANEL, x - np.outer(x @ direction, direction))
  assert (
    after['leakage.probe.accuracy'] < before['leakage.probe.accuracy'] - 0.2
  )
  assert after['leakage.enrolment.5'] < before['leakage.enrolment.5'] - 0.2
  assert after['leakage.eer.forgotten'] > before['leakage.eer.forgotten'] + 0.1
  retained = 'leakage.enrolment_retained.5'
  assert abs(after[retained] - before[retained]) < 0.1


def test_what_only_a_session_gives_away_is_no_voice():
  # Every session of a speaker in a direction of its own: nothing is the same
  # in two of them. The forgotten speaker has but 10, so a mean over models.
  rng = np.random.default_rng(1)
  places = rng.normal(size=(8, SPEAKERS, SESSIONS, DIMS))[:, SPEAKER, SESSION]
  many = [leakage(PANEL, place + 0.1 * noise()) for place in places]
  found = {name: np.mean([v[name] for v in many]) for name in many[0]}
  assert abs(found['leakage.eer.forgotten'] - 0.5) < 0.1
  assert abs(found['leakage.probe.auc'] - 0.5) < 0.2
  assert abs(found['leakage.speaker_probe'] - 1 / SPEAKERS) < 0.1
  # One who does not know of sessions sees the same place again.
  blind = make_panel(SPEAKER, None, KEYWORD, [0], seed=0)
  place = rng.normal(size=(SPEAKERS, SESSIONS, 100))[SPEAKER, SESSION]
  assert leakage(blind, place)['leakage.probe.auc'] > 0.9


def test_what_was_said_is_not_taken_for_a_voice():
  said = np.eye(KEYWORDS)[KEYWORD] + 0.01 * noise(dims=KEYWORDS)
  found = leakage(PANEL, said)
  assert abs(found['leakage.eer.forgotten'] - 0.5) < 0.1
  assert abs(found['leakage.probe.accuracy'] - 0.5) < 0.15
  # Even where a speaker says but one word of all.
  one = (SPEAKER != 0) | (KEYWORD == 0)
  panel = make_panel(SPEAKER[one], SESSION[one], KEYWORD[one], [0], seed=0)
  many = [
    leakage(panel, (said + 0.01 * noise(seed, KEYWORDS))[one])
    for seed in range(6)
  ]
  for name in ('leakage.eer.forgotten', 'leakage.probe.accuracy'):
    assert abs(np.mean([found[name] for found in many]) - 0.5) < 0.2


def test_probe_equals_one_by_hand():
  x = far(spread=0.6)
  rows, own, _ = PANEL.probes[0]
  features, fold = x[PANEL.order][rows], PANEL.fold[rows]
  accuracies, areas = [], []
  for k in range(5):
    fit, test = fold != k, fold == k
    mean, std = features[fit].mean(0), features[fit].std(0)
    model = sklearn.linear_model.LogisticRegression(C=1.0, tol=1e-8)
    model.fit((features[fit] - mean) / std, own[fit])
    scores = model.decision_function((features[test] - mean) / std)
    accuracies.append(
      sklearn.metrics.balanced_accuracy_score(own[test], scores > 0)
    )
    areas.append(sklearn.metrics.roc_auc_score(own[test], scores))
  found = leakage(PANEL, x)
  assert found['leakage.probe.accuracy'] == pytest.approx(
    np.mean(accuracies), abs=0.01
  )
  assert found['leakage.probe.auc'] == pytest.approx(np.mean(areas), abs=1e-3)


@pytest.mark.parametrize('clips', [1, 5, 20])
def test_enrolment_equals_one_by_one(clips):
  x = far(spread=0.6)
  ordered, shares = x[PANEL.order], []
  for enrolled in PANEL.enrolled[:, :, :clips]:
    centroids = [
      np.mean([ordered[i] / np.linalg.norm(ordered[i]) for i in rows], 0)
      for rows in enrolled
    ]
    for i in np.flatnonzero(PANEL.speaker == 0):
      if i not in enrolled[0]:
        cosines = [ordered[i] @ c / np.linalg.norm(c) for c in centroids]
        shares.append(np.argmax(cosines) == 0)
  got = leakage(PANEL, x)[f'leakage.enrolment.{clips}']
  assert got == pytest.approx(np.mean(shares))
  assert 0.3 < got < 1


def test_panel_keeps_sides_and_sessions_apart():
  speaker, session = SPEAKER[PANEL.order], SESSION[PANEL.order]
  for s in range(SPEAKERS):
    for when in range(SESSIONS):
      assert len(set(PANEL.fold[(speaker == s) & (session == when)])) == 1
    assert np.bincount(PANEL.fold[speaker == s]).tolist() == [12] * 5
  forgotten, retained = PANEL.trials['forgotten'], PANEL.trials['retained']
  assert (speaker[forgotten.first] == 0).all()
  assert (speaker[retained.first] != 0).all()
  assert (speaker[retained.second] != 0).all()
  rows, own, shuffled = PANEL.probes[0]
  np.testing.assert_array_equal(speaker[rows] == 0, own)
  words = KEYWORD[PANEL.order][rows]
  np.testing.assert_array_equal(
    np.bincount(words[own]), np.bincount(words[~own])
  )
  for k in range(5):
    mine = PANEL.fold[rows] == k
    assert (shuffled[:, mine].sum(1) == own[mine].sum()).all()
  for s in range(SPEAKERS):
    assert (speaker[PANEL.enrolled[:, s]] == s).all()
    assert all(len(set(draw)) == 20 for draw in PANEL.enrolled[:, s])


def test_several_forgotten_speakers_are_averaged():
  x = far()
  x[SPEAKER == 1] = x[SPEAKER == 2]  # One of the two cannot be told apart.
  panel = make_panel(SPEAKER, SESSION, KEYWORD, [0, 1], seed=0)
  found = leakage(panel, x)
  assert found['leakage.enrolment.5'] == pytest.approx(0.75, abs=0.1)
  assert 0.7 < found['leakage.probe.accuracy'] < 1
  assert set(panel.speaker[panel.order][panel.trials['forgotten'].first])


def test_no_forgotten_speaker_leaves_their_metrics_out():
  panel = make_panel(SPEAKER, SESSION, KEYWORD, [], seed=0)
  found = leakage(panel, far())
  assert OF_FORGOTTEN and not OF_FORGOTTEN & set(found)
  assert OF_FORGOTTEN | set(found) == set(leakage(PANEL, far()))
  assert found['leakage.speaker_probe'] == 1.0


def test_too_few_utterances_are_undefined():
  keep = (SPEAKER != 0) | ((SESSION < 5) & (KEYWORD == 0))  # Five of them.
  panel = make_panel(SPEAKER[keep], SESSION[keep], KEYWORD[keep], [0], seed=0)
  found = leakage(panel, far()[keep])
  nan = {name for name, value in found.items() if np.isnan(value)}
  assert nan == {
    'leakage.probe.accuracy',
    'leakage.probe.auc',
    'leakage.probe.shuffled',
    'leakage.enrolment.5',
    'leakage.enrolment.20',
  }
  assert found['leakage.enrolment.1'] == 1.0


def test_one_speaker_alone_is_undefined():
  alone = SPEAKER == 0
  panel = make_panel(SPEAKER[alone], SESSION[alone], None, [0], seed=0)
  found = leakage(panel, far()[alone])
  assert np.isnan(found['leakage.eer.forgotten'])
  assert np.isnan(found['leakage.enrolment_retained.5'])
  assert np.isnan(found['leakage.speaker_probe'])


def test_speakers_of_one_session_are_no_part_of_the_speaker_probe():
  session = np.where(SPEAKER == 5, 0, SESSION)
  panel = make_panel(SPEAKER, session, KEYWORD, [0], seed=0)
  assert leakage(panel, far())['leakage.speaker_probe'] == 1.0


def test_bad_input():
  with pytest.raises(
    ValueError, match=r'must be \[360, features\], got \(3, 2'
  ):
    leakage(PANEL, np.ones((3, 2)))
  bad = far()
  bad[3, 0] = np.inf
  with pytest.raises(ValueError, match='must be finite, got 1 of 360 that are'):
    leakage(PANEL, bad)
  with pytest.raises(ValueError, match='forgotten speaker 9 has no utterance'):
    make_panel(SPEAKER, SESSION, KEYWORD, [9], seed=0)
  with pytest.raises(ValueError, match='of the same utterances, at least one'):
    make_panel(SPEAKER, SESSION[1:], None, [0], seed=0)
  with pytest.raises(ValueError, match='at least one, got'):
    make_panel(SPEAKER[:0], None, None, [], seed=0)


def test_clips_that_an_adversary_has_are_the_rows():
  rows = {f'leakage.enrolment.{n}' for n in ENROLLED}
  assert rows <= set(METRICS)
