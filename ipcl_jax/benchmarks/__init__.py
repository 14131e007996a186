"""The benchmarks of `benchmark.py`.

`inputs`, `network`, `readouts`, `opening` and `training_run` measure; `gpu` measures everything, in a `worker`; `turns`
runs two implementations alternately and summarises; `in_torch` holds the implementations in torch, which run in a
`torch_process`; `compilations` records what is compiled; `material` makes images; `cards` has the limits of GPUs.
"""
