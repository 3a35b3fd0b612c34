"""A report as one HTML page that needs no other file."""

import base64
from collections.abc import Sequence
import dataclasses
import io
import pathlib
import wave

import jinja2
import numpy as np

from unlearn_jax.reporting import plots
from unlearn_jax.reporting.tables import Table

WAV_ADDRESS = 'data:audio/wav;base64,'


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of a recording.

  Attributes:
    model: method, or 'original'.
    answer: the most probable class.
    probability: of that class.
    is_right: whether it is the true one.
  """

  model: str
  answer: str
  probability: float
  is_right: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
  """A recording to listen to.

  Attributes:
    utterance_id: of the recording.
    keyword: what is said.
    speaker: who says it.
    audio: int16 [samples].
    sample_rate_hz: of the audio.
    features: log-mels [frames, bins].
    hop_ms: from one frame to the next.
    predictions: of each model.
    note: what is remarkable about it.
  """

  utterance_id: str
  keyword: str
  speaker: str
  audio: np.ndarray
  sample_rate_hz: int
  features: np.ndarray
  hop_ms: float
  predictions: tuple[Prediction, ...]
  note: str = ''

  def audio_address(self) -> str:
    """Returns a `data:` address of a WAV file."""
    with io.BytesIO() as file:
      with wave.open(file, 'wb') as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(self.sample_rate_hz)
        sound.writeframes(self.audio.astype('<i2').tobytes())
      data = file.getvalue()
    return WAV_ADDRESS + base64.b64encode(data).decode()

  def picture_address(self) -> str:
    """Returns a `data:` address of the log-mel picture."""
    return plots.log_mel_picture(self.features, self.hop_ms)


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture with its heading.

  Attributes:
    title: of the section.
    text: what one sees, and how to read it.
    svg: an `<svg>` element; '' leaves the section out.
  """

  title: str
  text: str
  svg: str


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
  """What a report shows, from top to bottom.

  Attributes:
    title: of the page.
    facts: what was done, as names and values.
    warnings: what the reader must know, one sentence each.
    table: the comparison.
    table_title: its heading.
    table_text: how to read it.
    figures: pictures.
    recordings_text: which recordings were chosen.
    recordings: headings, and recordings under each; empty ones are left out.
  """

  title: str
  facts: Sequence[tuple[str, str]]
  warnings: Sequence[str]
  table: Table
  table_title: str
  table_text: str
  figures: Sequence[Figure]
  recordings_text: str
  recordings: Sequence[tuple[str, Sequence[Recording]]]


def render(page: Page) -> str:
  """Returns the HTML of a page; all text is escaped."""
  source = pathlib.Path(__file__).with_name('page.html').read_text('utf-8')
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
  )
  return environment.from_string(source).render(page=page)
