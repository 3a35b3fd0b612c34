"""What a study consists of."""

from collections.abc import Mapping
import dataclasses
import re

from experiments.cells import Run
from experiments.work import Piece
from unlearn_jax.datasets.forget import ForgetRequest
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.methods.preset import Preset


@dataclasses.dataclass(frozen=True)
class StudyBlock:
  """The cells of one request.

  Attributes:
    request: what to forget.
    methods: to run, retrain first.
    presets: of the methods, before any search.
    tuned_on: the requests of the searches; where there are none, presets count.
  """

  request: ForgetRequest
  methods: tuple[str, ...]
  presets: Mapping[str, Preset]
  tuned_on: tuple[ForgetRequest, ...]

  @property
  def name(self) -> str:
    """Returns the name of its folder."""
    return folder_name(self.request)

  @property
  def searched_on(self) -> str:
    """Returns for instance 'speaker:00000003, speaker:00000012'."""
    return ', '.join(map(str, self.tuned_on))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Piece):
  """A piece of a study.

  Attributes:
    stage: one of `STAGES`, which are done in their order.
    method: that is searched or run.
    request: for which; None for models before unlearning.
    block: whose methods it is of; None for models that train from scratch.
    run: that it makes; None for a search.
  """

  stage: str
  method: str
  request: ForgetRequest | None
  block: StudyBlock | None = None
  run: Run | None = None


STAGES = (ORIGINAL, RETRAIN, 'search', 'run')


def folder_name(request: ForgetRequest) -> str:
  """Returns what a file system takes: 'sample_5pc' for 'sample:5%'."""
  return re.sub(r'[^\w.-]', '_', str(request).replace('%', 'pc'))
