"""What `benchmark.py` measures: a file for each part of the system, and what they share.

`turns` lets two programs alternate and sums up; `in_torch` holds the other program, where there is torch;
`material` makes images to work on.
"""
