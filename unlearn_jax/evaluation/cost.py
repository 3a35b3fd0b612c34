"""What unlearning costs beside retraining."""


def rte(
  retrain_s: float, run_s: float, *, setup_s: float = 0.0, requests: int = 1
) -> float:
  r"""RTE: how many times faster than retraining, over a number of requests.

  .. math:: q T_r / (s + q T_u)

  >>> rte(120.0, 12.0)
  10.0

  Higher is better; retraining has 1 by definition, so there is no ideal.

  Args:
    retrain_s: run time of retraining, without compiling.
    run_s: run time of a method, likewise, above 0 unless there is a setup.
    setup_s: spent once for all requests: importances, shadow models, tuning.
    requests: q, at least 1.

  Raises:
    ValueError: if a time is negative, all are 0, or `requests` is below 1.
  """
  if min(retrain_s, run_s, setup_s) < 0 or not run_s + setup_s > 0:
    raise ValueError(
      'times must be >= 0 and not all 0, got '
      f'{retrain_s}, {run_s} and {setup_s}.'
    )
  if requests < 1:
    raise ValueError(f'requests must be >= 1, got {requests}.')
  return requests * retrain_s / (setup_s + requests * run_s)
