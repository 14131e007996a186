"""A model as Brain-Score takes one: something that looks at images and has recordings taken from its layers.

Nothing of Brain-Score is needed here. Where it is installed, this hands a model over:

    from brainscore_vision.model_helpers.activations.core import ActivationsExtractorHelper
    from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

    observer = Observer(convert_torch_checkpoint('ipcl1'))
    extractor = ActivationsExtractorHelper(
        identifier=observer.identifier, get_activations=observer.get_activations, preprocessing=observer.preprocess
    )
    model = ModelCommitment(
        identifier=observer.identifier, activations_model=extractor, layers=list(observer.layers)
    )

Its own parts then choose a layer for each region, place images in the visual field and score.
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
    """A model that looks at images.

    Args:
        encoder: the model.
        layers: recorded from, shallow to deep; None for all.
        visual_degrees: angle that the width of an image takes. Networks have none, so it is a convention; 8 is
            the usual one.
        batch_size: images at a time.

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
        """The model's name and the beginning of its weights' sha256: two models never share one."""
        return f"{self.encoder.name or 'ipcl_jax'}-{self.encoder.digest()[:8]}"

    def visual_degrees(self) -> float:
        """Angle that the width of an image takes."""
        return self._degrees

    def look_at(self, images: Sequence[Stimulus]) -> dict[str, np.ndarray]:
        """Activations of images of any size, shown as the model saw those of its training.

        Args:
            images: N of what `load_stimuli` takes, such as paths.

        Returns:
            For each layer `[N, D]` float32; units of a convolutional layer by row, column and channel.

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
        """Images as the model wants them, `[N, S, S, 3]` float32."""
        return load_stimuli(images, self.encoder)

    def get_activations(self, images: ArrayLike, layer_names: Iterable[str]) -> dict[str, np.ndarray]:
        """Layers of preprocessed images by name: `[N, h, w, C]`, or `[N, D]` after ave_pool."""
        return {
            name: np.asarray(value)
            for name, value in extract(self.encoder, np.asarray(images), layer_names).items()
        }
