"""What can be known of a machine before the real work starts, and of an NPU without one.

`machine`: versions and known trouble. `cases`: every operator, to be run against stored arrays. `graph`, `rules`, `cost`,
`networks`, `shapes`: every graph in the form that Ascend gets, examined on any machine. `tools/check.py` prints it all.
"""
