"""Mel-frequency cepstral coefficients: the cosine transform of log-mels."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import scipy.fft


def mfcc(
  log_mels: jax.Array, *, num_coefficients: int | None = None
) -> jax.Array:
  r"""Computes the orthonormal DCT-II over bands.

  .. math::
    c_j = s_j \sum_b y_b \cos(\pi j (b + 1/2) / B), \quad
    s_0 = \sqrt{1 / B}, \; s_{j > 0} = \sqrt{2 / B}

  With natural logarithms, as from `log_mel`, coefficients are log(10) / 10
  times those of log-mels in dB.

  >>> mfcc(jnp.zeros((98, 40)), num_coefficients=13).shape
  (98, 13)

  Args:
    log_mels: [..., frames, bins].
    num_coefficients: how many to keep, the lowest first; all by default.

  Returns:
    [..., frames, coefficients].

  Raises:
    ValueError: if `num_coefficients` is not in [1, bins].
  """
  bins = log_mels.shape[-1]
  if num_coefficients is None:
    num_coefficients = bins
  if not 1 <= num_coefficients <= bins:
    raise ValueError(
      f'num_coefficients must be in [1, {bins}], got {num_coefficients}.'
    )
  basis = scipy.fft.dct(np.eye(bins), norm='ortho')[:, :num_coefficients]
  return jnp.matmul(
    log_mels,
    jnp.asarray(basis, log_mels.dtype),
    precision=lax.Precision.HIGHEST,
  )
