"""The benchmarks of `benchmark.py`.

`inputs`, `network`, `readouts`, `opening`, `training_run` and `gpu` measure; `turns` runs two implementations
alternately and summarises; `in_torch` holds the implementations in torch; `material` makes images.
"""
