"""Each kind of bad input gives one clear line and leaves results alone."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from unlearn_jax.training import checkpoint
from unlearn_jax.types import InputError


def make_corpus(folder, keywords=('go', 'no'), speakers=3, takes=4):
  """Tones of one second in the layout of Arabic Speech Commands."""
  time_s = np.arange(16_000) / 16_000
  for k, keyword in enumerate(keywords):
    (folder / keyword).mkdir(parents=True)
    for s in range(speakers):
      for t in range(takes):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * k + 20 * s + t) * time_s)
        name = folder / keyword / f'{s}_NO_{t}.wav'
        soundfile.write(name, tone, 16_000)
  return folder


@pytest.fixture
def fails(run_job, tmp_path):
  """Returns what runs a job that must fail with one line like `message`."""

  def run(message, *args, job='kws_unlearn'):
    with pytest.raises(InputError, match=message) as info:
      run_job(job, f'--workdir={tmp_path / "workdir"}', *args)
    assert '\n' not in str(info.value)

  return run


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--dataset=klingon'], '--dataset=klingon: must be one of espeak_comman'),
    (['--model=resnet'], '--model=resnet: must be one of tc_resnet8'),
    (['--methods=magic'], "--methods: 'magic' is none of retrain, fine_tune"),
    (['--methods=,'], "--methods=',': must be all or a comma list"),
    (['--preset=x.y=1'], "--preset=x.y=1: 'x' is none of fine_tune, l1_sparse"),
    (['--preset=scrub'], '--preset=scrub: must be method.field=value'),
    (['--preset=scrub.x=1'], "'x' is none of algorithm, calibrate, clip_norm"),
    (['--preset=scrub.epochs=-1'], '--preset=scrub.epochs=-1: the value must'),
    (['--forget=everything'], "--forget=everything: 'everything' must be samp"),
    (['--forget=sample:0'], '--forget=sample:0: sample:0 must be a number'),
    (['--forget=keyword:stop'], "has no keyword 'stop'; there are 4 keywords"),
    (['--forget=speaker:x'], "has no speaker 'x'; there are 5 speakers"),
    (['--forget=ids:nowhere.txt'], 'nowhere.txt must be a text file of utter'),
    (['--forget=sample:0.1%'], 'sample:0.1% selects none of the 70 training'),
    (['--forget=sample:70'], 'selects all 70 training utterances; must leave'),
    (
      ['--forget=keyword:up+keyword:down+keyword:yes+keyword:no'],
      'selects all 70 training utterances',
    ),
    (['--split=official'], '--split=official: corpus espeak_commands/tiny has'),
    (['--data_dir=/tmp'], '--data_dir=/tmp: must not be given with --dataset'),
    (['--dataset=digit_images'], '--max_shift_ms=100: must be at most 80 for'),
    (['--dp_max_norm=nan'], '--dp_max_norm must be >= 0, got nan'),
    (['--dp_noise_multiplier=1'], '--dp_noise_multiplier must be 0 without a'),
    (['--learning_rate=nan'], '--learning_rate must be >= 0, got nan'),
    (['--checkpoint=/nowhere'], '--checkpoint=/nowhere: does not exist; must'),
  ],
)
def test_flags(fails, flags, message):
  fails(re.escape(message), *flags)


def test_unknown_ids_are_named(fails, tmp_path):
  ids = tmp_path / 'ids.txt'
  ids.write_text('up/speaker_000_take_00\nup/nobody\n')
  fails('1 of the 2 ids in .*ids.txt must be in corpus', f'--forget=ids:{ids}')


def test_no_such_data_folder(fails, tmp_path):
  fails(
    '--data_dir=.*/nowhere: does not exist; must hold <keyword>/<speaker>_NO',
    '--dataset=arabic_speech_commands',
    f'--data_dir={tmp_path / "nowhere"}',
  )
  fails('--data_dir is needed', '--dataset=arabic_speech_commands')


def test_empty_or_wrongly_laid_out_data_folder(fails, tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  flags = ['--dataset=arabic_speech_commands', f'--data_dir={data}']
  fails('must hold <keyword>/.*; has no audio file', *flags)
  soundfile.write(data / 'x.wav', np.zeros(16_000), 16_000)
  fails('none of 1 audio files is named so, for instance x.wav', *flags)


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    (b'this is no audio', 'is no audio, or is damaged'),
    (b'', 'is empty'),
    ('half', 'is cut short'),
  ],
)
def test_damaged_audio_is_named_or_left_out(
  fails, run_job, tmp_path, content, problem, capsys
):
  data = make_corpus(tmp_path / 'data')
  bad = data / 'go' / '1_NO_2.wav'
  whole = bad.read_bytes()
  bad.write_bytes(whole[: len(whole) // 2] if content == 'half' else content)
  flags = ['--dataset=arabic_speech_commands', f'--data_dir={data}']
  fails(f'go/1_NO_2.wav: {problem}.*--skip_bad_audio leaves', *flags)
  run_job(
    'kws_train',
    f'--workdir={tmp_path / "skipping"}',
    '--skip_bad_audio',
    '--epochs=1',
    *flags,
  )
  assert 'original' in capsys.readouterr().out


def test_stereo_and_other_rates_are_taken(run_job, tmp_path, capsys):
  data = make_corpus(tmp_path / 'data')
  mono = soundfile.read(data / 'go' / '1_NO_2.wav')[0]
  soundfile.write(
    data / 'go' / '1_NO_2.wav', np.stack([mono, mono], 1)[::2], 8_000
  )
  run_job(
    'kws_train',
    f'--workdir={tmp_path / "workdir"}',
    '--dataset=arabic_speech_commands',
    f'--data_dir={data}',
    '--epochs=1',
  )
  assert 'original' in capsys.readouterr().out


def test_checkpoint_of_another_shape(fails, run_job, tmp_path):
  two, three = (
    make_corpus(tmp_path / f'data{len(k)}', k)
    for k in (('go', 'no'), ('go', 'no', 'on'))
  )
  arabic = '--dataset=arabic_speech_commands'
  run_job(
    'kws_train',
    f'--workdir={tmp_path / "two"}',
    arabic,
    f'--data_dir={two}',
    '--epochs=1',
  )
  model = f'--checkpoint={tmp_path / "two" / "seed_0" / "original"}'
  fails(
    r'model: .*head.* has shape \(2,\), the network needs \(3,\)',
    model,
    f'--data_dir={three}',
    arabic,
    '--epochs=1',
  )
  shutil.rmtree(tmp_path / 'workdir')
  fails(
    '--epochs=7: the model of --checkpoint was made with 1; must be the same',
    model,
    f'--data_dir={two}',
    arabic,
    '--epochs=7',
  )
  # The same keywords, other recordings.
  other = make_corpus(tmp_path / 'other', ('go', 'no'), takes=5)
  fails(
    'was trained on another version of arabic_speech_commands',
    model,
    f'--data_dir={other}',
    arabic,
    '--epochs=1',
  )


def test_checkpoint_that_is_none(fails, tmp_path):
  (tmp_path / 'empty').mkdir()
  fails(
    'checkpoint .*/empty: not a checkpoint',
    f'--checkpoint={tmp_path / "empty"}',
  )
  path = tmp_path / 'foreign'
  checkpoint.save_params(path, {'w': np.zeros(3)}, {'by': 'somebody'})
  fails('its description has no settings', f'--checkpoint={path}')


def test_workdir_that_is_not_ours(fails, tmp_path):
  (tmp_path / 'workdir').mkdir()
  (tmp_path / 'workdir' / 'thesis.tex').write_text('irreplaceable')
  fails('holds other files and no flags.txt; must be new, empty or of an')
  names = sorted(p.name for p in (tmp_path / 'workdir').iterdir())
  assert names == ['thesis.tex']


def test_workdir_that_cannot_be_written(run_job, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='must be a folder that can be written'):
    run_job('kws_train', f'--workdir={tmp_path / "file" / "workdir"}')


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    ('--forget=sample:5%\nepochs 3\n', "'epochs' is no flag|'epochs 3' is no"),
    ('--nosuchflag=1\n', "Unknown command line flag 'nosuchflag'"),
    ('--seeds=many\n', 'flag --seeds=many'),
    ('--seeds=0\n', 'flag --seeds=0'),
    ('--seeds=\xff\n', '--flagfile: must be UTF-8 text and is not'),
  ],
)
def test_malformed_flagfile(start_job, tmp_path, lines, message):
  path = tmp_path / 'job.cfg'
  path.write_text(f'--workdir={tmp_path / "workdir"}\n{lines}', 'latin-1')
  job = start_job('kws_unlearn', f'--flagfile={path}')
  stdout, stderr = job.communicate()
  assert job.returncode == 1
  assert stderr.startswith('error: ') and stderr.count('\n') == 1, stderr
  assert re.search(message, stderr), stderr
  assert not stdout
  assert not (tmp_path / 'workdir').exists()


def test_full_disk(run_job, tmp_path, monkeypatch):
  """Whatever was written before is whole; the error names the file."""
  from unlearn_jax.evaluation import outcome as outcomes

  def full(outcome, path):
    raise OSError(28, 'No space left on device', str(path))

  flags = [f'--workdir={tmp_path / "workdir"}', '--epochs=1']
  with monkeypatch.context() as patch:
    patch.setattr(outcomes, 'save', full)
    with pytest.raises(OSError, match='No space left'):
      run_job('kws_train', *flags)
  run_job('kws_train', *flags)
  lines = (tmp_path / 'workdir' / 'records.jsonl').read_text().splitlines()
  assert json.loads(lines[0])['provenance']['method'] == 'original'
