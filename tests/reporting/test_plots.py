"""Pictures as they stand in a page, beside each other."""

import re

from matplotlib import figure
import matplotlib.colors

from unlearn_jax.reporting import plots


def picture(colour):
  fig = figure.Figure()
  fig.subplots().scatter(range(5), range(5), color=colour)
  return plots.svg_of(fig)


def rules_of(svg):
  (block,) = re.findall(r'<style>(\.s.*?)</style>', svg)
  return dict(re.findall(r'\.(s[0-9a-f]{8}){([^}]*)}', block))


def test_styles_are_named_once_and_alike_in_every_picture():
  red, blue = picture('red'), picture('blue')
  for svg, colour in ((red, 'red'), (blue, 'blue')):
    assert ' style="' not in svg
    rules = rules_of(svg)
    assert set(re.findall(r'class="(\w+)"', svg)) == set(rules)
    points = re.findall(r'<use [^>]*class="(\w+)"', svg)
    fill = f'fill: {matplotlib.colors.to_hex(colour)}'
    assert sum(fill in rules[name] for name in points) == 5
  shared = rules_of(red).keys() & rules_of(blue).keys()
  assert shared and all(rules_of(red)[k] == rules_of(blue)[k] for k in shared)


def test_a_long_legend_has_room():
  assert plots.height_for(3) == 5
  assert plots.height_for(40) == 8
