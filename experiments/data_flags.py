"""Flags of all jobs that read recordings."""

from absl import flags

DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'Folder of the recordings, as downloaded; not needed for the embedded '
  'espeak_commands.',
)
AUDIO_PATTERN = flags.DEFINE_string(
  'audio_pattern',
  None,
  'For --dataset=audio_folder and audio_folder/full: regular expression on '
  'the relative path with the groups keyword, speaker, session and take, all '
  'but the first optional.',
)
SKIP_BAD_AUDIO = flags.DEFINE_bool(
  'skip_bad_audio', False, 'Leave out damaged recordings, and list them.'
)
TRIALS = flags.DEFINE_string(
  'trials',
  None,
  'A list of verification trials, as veri_test.txt of VoxCeleb1, on which '
  'embeddings are compared too.',
)
FRAMES = flags.DEFINE_enum(
  'frames',
  'ordered',
  ['ordered', 'shuffled', 'averaged'],
  'Frames of each example as they come, in an order of its own, or their mean '
  'in the place of each: what is left without the order of time.',
)
CROP_MS = flags.DEFINE_float(
  'crop_ms',
  2_000.0,
  'Where utterances vary in length: of the crops of training, milliseconds.',
  lower_bound=25.0,
  upper_bound=60_000.0,
)
LENGTH_BUCKETS = flags.DEFINE_bool(
  'length_buckets',
  False,
  'Likewise, for --model=hf:...: batches of training and unlearning hold '
  'utterances of similar length, and end with the longest where that is '
  'shorter than --crop_ms: less silence to compute on, but a program to '
  'compile for each of a few lengths, and batches that are mixed less.',
)
SCORE_CROPS = flags.DEFINE_integer(
  'score_crops',
  5,
  'Likewise: crops, spread evenly, over which the score of an utterance is '
  'averaged; 0 scores whole utterances.',
  lower_bound=0,
  upper_bound=100,
)
DATA = flags.DEFINE_enum(
  'data',
  'auto',
  ['auto', 'device', 'stream'],
  'Likewise: features on the device, or read from disk while it works; auto '
  'streams what takes more than half of its memory. Both give the same models.',
)
DATA_WORKERS = flags.DEFINE_integer(
  'data_workers',
  0,
  'Processes that read what is streamed; 0 is threads alone.',
  lower_bound=0,
  upper_bound=64,
)
