"""The released PyTorch models as encoders, and the way back.

Importing this needs no torch; reading or writing a PyTorch file does.
"""

from convert.checkpoint import CheckpointError, save_torch, to_torch_state_dict
from convert.fetch import DownloadError
from convert.models import convert_torch_checkpoint, open_encoder

__all__ = [
    "CheckpointError",
    "DownloadError",
    "convert_torch_checkpoint",
    "open_encoder",
    "save_torch",
    "to_torch_state_dict",
]
