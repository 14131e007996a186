"""What GPUs can do, by their manufacturers' data sheets."""

from typing import NamedTuple


class Card(NamedTuple):
    """Limits of a GPU."""

    bandwidth: float  # of its memory, GB/s
    bfloat16: float | None = None  # dense matrix products, 10^12 operations/s
    float32: float | None = None  # the same in TF32


_CARDS = {
    "H100 80GB HBM3": Card(3350, 989, 495), "H100 PCIe": Card(2000, 756, 378), "H200": Card(4800, 989, 495),
    "A100-SXM4-80GB": Card(2039, 312, 156), "A100-SXM4-40GB": Card(1555, 312, 156), "L40S": Card(864, 362, 183),
    "RTX 4090": Card(1008, 165, 83), "V100": Card(900), "T4": Card(320),
}  # fmt: skip


def find_card(kind: str) -> Card | None:
    """Returns the limits of a GPU by its `device_kind`, such as `NVIDIA H100 80GB HBM3`; None if it isn't known."""
    return next((card for name, card in _CARDS.items() if name in kind), None)
