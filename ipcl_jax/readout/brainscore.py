"""An adapter that passes a model to Brain-Score, which records from its layers.

This module doesn't need Brain-Score. If it is installed, use:

    from brainscore_vision.model_helpers.activations.core import ActivationsExtractorHelper
    from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

    observer = Observer(convert_torch_checkpoint('ipcl1'))
    extractor = ActivationsExtractorHelper(
        identifier=observer.identifier, get_activations=observer.get_activations, preprocessing=observer.preprocess
    )
    model = ModelCommitment(
        identifier=observer.identifier, activations_model=extractor, layers=list(observer.layers)
    )

Brain-Score then chooses a layer for each region, places images in the visual field and computes scores.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jax.typing import ArrayLike

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import extract
from ipcl_jax.activations.preprocess import Stimulus, load_stimuli
from ipcl_jax.errors import InputError
from ipcl_jax.models.checks import check_layers


class Observer:
    """A model with the functions that Brain-Score calls.

    Args:
        encoder: the model.
        layers: layers to record from, shallow to deep; None for all.
        visual_degrees: visual angle of an image's width, in degrees. It is a convention, since networks have no
            visual angle; 8 is usual.
        batch_size: images per batch.

    Raises:
        InputError: for unknown layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        layers: Iterable[str] | None = None,
        *,
        visual_degrees: float = 8.0,
        batch_size: int = 64,
    ):
        self.encoder = encoder
        self.layers = tuple(check_layers(layers or encoder.layer_names, encoder.layer_names))
        self._degrees, self._batch_size = visual_degrees, batch_size

    @property
    def identifier(self) -> str:
        """The model's name and the start of its weights' sha256, which differ between models."""
        return f"{self.encoder.name or 'ipcl_jax'}-{self.encoder.digest()[:8]}"

    def visual_degrees(self) -> float:
        """Returns the visual angle of an image's width, in degrees."""
        return self._degrees

    def look_at(self, images: Sequence[Stimulus]) -> dict[str, np.ndarray]:
        """Computes activations for images of any size, preprocessed for the model.

        Args:
            images: N images that `load_stimuli` accepts, such as paths.

        Returns:
            For each layer `[N, D]` float32; a convolutional layer is flattened by row, column and channel.

        Raises:
            OSError, InputError: as `load_stimuli`.
        """
        parts = [
            self.get_activations(self.preprocess(images[start : start + self._batch_size]), self.layers)
            for start in range(0, len(images), self._batch_size)
        ]
        if not parts:
            raise InputError("There are no images to look at.")
        return {
            name: np.concatenate([part[name].reshape(len(part[name]), -1) for part in parts])
            for name in self.layers
        }

    def preprocess(self, images: Sequence[Stimulus]) -> np.ndarray:
        """Preprocesses images for the model, `[N, S, S, 3]` float32."""
        return load_stimuli(images, self.encoder)

    def get_activations(self, images: ArrayLike, layer_names: Iterable[str]) -> dict[str, np.ndarray]:
        """Computes layers of preprocessed images, by name: `[N, h, w, C]`, or `[N, D]` after ave_pool."""
        return {
            name: np.asarray(value)
            for name, value in extract(self.encoder, np.asarray(images), layer_names).items()
        }
