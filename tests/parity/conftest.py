"""Only `make test-parity` installs what these tests compare with."""

import importlib.util

if importlib.util.find_spec('transformers') is None:
  collect_ignore_glob = ['test_*.py']
