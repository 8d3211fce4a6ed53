"""Every setting: dataclasses whose defaults are complete, and the reader of YAML files and `--set`."""
