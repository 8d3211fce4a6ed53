"""Every setting: dataclasses with complete defaults, and the reader of YAML files and `--set`."""
