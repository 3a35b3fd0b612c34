"""Images of handwritten digits, a control for corpora of speech.

1,797 images of 8 x 8 pixels in 10 classes, which come with scikit-learn: the
test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits",
1998, https://doi.org/10.24432/C50P49. Rows of pixels stand in the place of
frames, columns in that of mel bins. Who wrote which is not known.
"""

import hashlib

import numpy as np
import sklearn.datasets

from unlearn_jax.datasets.audio_folder import UNKNOWN_SPEAKER
from unlearn_jax.datasets.corpus import Corpus

NAME = 'digit_images'


def load() -> Corpus:
  """Returns the corpus, which has features and no sound."""
  digits = sklearn.datasets.load_digits()
  label = np.asarray(digits.target, np.int32)
  order = np.argsort(label, kind='stable')
  label = label[order]
  # 0 to 16 as they come, of the size of log-mels, whose spread is about 5.
  features = np.asarray(digits.images[order], np.float16)
  ids = [f'{digit}/{i:04d}' for digit, i in zip(label, order, strict=True)]
  held = hashlib.sha256(features.tobytes() + label.tobytes())
  return Corpus(
    name=NAME,
    source=(),
    utterance_id=np.array(ids),
    keyword=label,
    speaker=np.zeros(len(label), np.int32),
    keywords=tuple(map(str, range(10))),
    speakers=(UNKNOWN_SPEAKER,),
    official_split=None,
    fingerprint=held.hexdigest(),
    num_samples=0,
    features=features,
  )
