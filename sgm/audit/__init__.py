"""What can be known of a machine before the real work starts, and of an NPU without having one.

`environment`: versions and known problems. `operator_cases`: every operator, to be run on a device
and compared with stored arrays; `golden_networks`: small networks likewise. `diffusion_graphs`,
`mesh_graphs` and `object_graphs` list every graph, `graph` traces one in the form that Ascend gets,
on any machine, and `ascend_rules`, `cost` and `reference_flops` examine it. `tools/check.py` prints
it all.
"""
