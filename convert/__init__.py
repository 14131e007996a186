"""Conversion of PyTorch checkpoints, the released models among them, to encoders and back.

Importing this package needs no torch; reading or writing a PyTorch file does.
"""

from .checkpoint import save_torch, to_torch_state_dict
from .download import DownloadError
from .errors import CheckpointError, CheckpointWarning
from .models import convert_torch_checkpoint, open_encoder

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "DownloadError",
    "convert_torch_checkpoint",
    "open_encoder",
    "save_torch",
    "to_torch_state_dict",
]
