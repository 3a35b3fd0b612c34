"""Rows of the registry: rules that edit the weights once and take no steps."""

from unlearn_jax.methods.fisher_forgetting import fisher_forgetting
from unlearn_jax.methods.influence import influence
from unlearn_jax.methods.lfssd import lfssd
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.ssd import ssd
from unlearn_jax.types import Side

_RETAIN: frozenset[Side] = frozenset({'retain'})
_BOTH: frozenset[Side] = frozenset({'forget', 'retain'})


def _edit(options, **settings) -> Preset:
  """A preset of a rule that takes no steps."""
  return Preset(0, 0.0, options=options, **settings)


ROWS: dict[str, MethodSpec] = {
  'ssd': MethodSpec(
    build=lambda p, tx, **o: ssd(p.loss_fn, **o),
    needs=_BOTH,
    preset=_edit({'threshold': 40.0, 'dampening': 0.7}),
    class_preset=_edit({'threshold': 9.0, 'dampening': 0.28}),
    summary='dampens the weights that matter most for the forget set',
    when='seconds, no training',
  ),
  'lfssd': MethodSpec(
    build=lambda p, tx, **o: lfssd(p.predict_fn, **o),
    needs=_BOTH,
    preset=_edit({'threshold': 1.5, 'dampening': 0.7}),
    reads_losses=False,
    class_preset=_edit({'threshold': 3.4, 'dampening': 0.95}),
    summary='the same without labels',
    when='seconds, no training, no labels',
  ),
  'fisher_forgetting': MethodSpec(
    build=lambda p, tx, **o: fisher_forgetting(p.loss_fn, p.predict_fn, **o),
    needs=_RETAIN,
    preset=_edit({'mode': 'empirical', 'noise': 2.5e-7, 'max_std': 0.03}),
    summary='noise where the retain set does not care',
    when='no forget data at hand',
  ),
  'influence': MethodSpec(
    build=lambda p, tx, **o: influence(p.loss_fn, p.predict_fn, **o),
    needs=_BOTH,
    preset=_edit({'step': 0.98, 'damping': 2.2, 'max_step_norm': 0.76}),
    class_preset=_edit(
      {
        'step': 24,
        'damping': 1.6e-2,
        'max_step_norm': 2.7,
        'max_iterations': 20,
      }
    ),
    summary='one Newton step towards the minimum without the forget set',
    when='few recordings, a model near its optimum',
  ),
}
