"""Rows of the registry: rules that act on the embedding, not only the output.

They run on models that have one (`Problem.embed_fn`).
"""

from unlearn_jax.methods.adversarial_probe import adversarial_probe
from unlearn_jax.methods.embedding_scrub import embedding_scrub
from unlearn_jax.methods.preset import Preset
from unlearn_jax.methods.spec import MethodSpec
from unlearn_jax.methods.subspace_projection import subspace_projection
from unlearn_jax.types import Side

_BOTH: frozenset[Side] = frozenset({'forget', 'retain'})
_SCRUB = {'retain_weight': 1.0, 'output_weight': 0.0, 'reference': 'generic'}

ROWS: dict[str, MethodSpec] = {
  'embedding_scrub': MethodSpec(
    build=lambda p, tx, **o: embedding_scrub(
      p.embed_fn, p.predict_fn, p.untrained_fn or p.init_fn, tx, **o
    ),
    needs=_BOTH,
    preset=Preset(3, 1e-4, options=_SCRUB),
    class_preset=Preset(8, 3e-3, options={**_SCRUB, 'output_weight': 1.0}),
    reads_losses=False,
    summary='gives the forget set the embedding of nobody in particular',
    when='a voice must not be recognised by its embedding either',
  ),
  'subspace_projection': MethodSpec(
    build=lambda p, tx, **o: subspace_projection(
      p.embed_fn, p.map_embedding_fn, **o
    ),
    needs=_BOTH,
    preset=Preset(0, 0.0, options={'strength': 1.0, 'ridge': 1e-3}),
    reads_losses=False,
    summary='erases the direction that tells the forget set, in closed form',
    when='one pass, no training, no labels',
  ),
  'adversarial_probe': MethodSpec(
    build=lambda p, tx, **o: adversarial_probe(
      p.loss_fn, p.embed_fn, tx, embedding_size=p.embedding_size, **o
    ),
    needs=_BOTH,
    preset=Preset(3, 1e-4, options={'reversal': 1.0}),
    class_preset=Preset(5, 1e-3, options={'reversal': 1.0}),
    summary='fine-tunes against a probe that seeks the forget set',
    when='the adversary is a probe on the embedding',
  ),
}
