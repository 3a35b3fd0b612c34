"""Slope and offset of `confidence_matching`, read off what was never heard."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from unlearn_jax.methods.confidence_matching import logit_confidence
from unlearn_jax.methods.confidence_matching import resemblance


def calibrate(heard: np.ndarray, unheard: np.ndarray) -> tuple[float, float]:
  """Returns slope and offset that map one set of confidences onto the other.

  By their means and standard deviations.

  Args:
    heard: confidences phi of the original model in its training set, [n].
    unheard: likewise in recordings that it never heard, of the same kind as
      those to forget: held-out recordings of the same speakers and keywords
      for single recordings, those of held-out speakers for a speaker; [m].

  Raises:
    ValueError: if a set has fewer than two values, one is not finite, or those
      of `heard` are all equal.

  >>> calibrate(np.array([4.0, 6.0]), np.array([2.0, 5.0]))
  (1.5, -4.0)
  """
  for name, values in (('heard', heard), ('unheard', unheard)):
    if np.size(values) < 2 or not np.isfinite(values).all():
      raise ValueError(
        f'{name} must be at least two finite values, got {np.size(values)}.'
      )
  spread = np.std(heard)
  if not spread > 0:
    raise ValueError('heard must hold values that differ, got one alone.')
  slope = float(np.std(unheard) / spread)
  return slope, float(np.mean(unheard) - slope * np.mean(heard))


def from_unheard(
  options: Mapping[str, Any],
  heard_logits: np.ndarray,
  heard_label: np.ndarray,
  unheard_logits: np.ndarray,
  unheard_label: np.ndarray,
) -> dict[str, float]:
  """Returns slope and offset by `calibrate`; of a class the offset alone.

  Args:
    options: of the rule, among them 'line' and 'slope'.
    heard_logits: of the original model, of recordings in its training set, [n,
      classes].
    heard_label: [n] int.
    unheard_logits: of recordings of the same kind by models that never heard
      them: for single recordings those that were held out, by the original
      model; for a speaker or a class others of the training set, by models that
      were retrained without them.
    unheard_label: [m] int.

  Raises:
    ValueError: as `calibrate`.
  """
  heard, unheard = (
    (jnp.asarray(logits), jnp.asarray(label))
    for logits, label in (
      (heard_logits, heard_label),
      (unheard_logits, unheard_label),
    )
  )
  confidence = np.asarray(logit_confidence(*unheard))
  if options.get('line') == 'resemblance':  # Not in settings of old.
    known = -np.asarray(resemblance(*heard))
    if not np.isfinite(np.mean(confidence) + np.mean(known)):
      raise ValueError('logits must be finite, and of at least one recording.')
    slope = options['slope']
    return {'offset': float(np.mean(confidence) - slope * np.mean(known))}
  slope, offset = calibrate(np.asarray(logit_confidence(*heard)), confidence)
  return {'slope': slope, 'offset': offset}
