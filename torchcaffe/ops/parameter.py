"""Parameter."""

from __future__ import annotations

from torchcaffe.core.blob import Blob
from torchcaffe.core.layer import Layer, layer


@layer(bottoms=0, tops=1)
class Parameter(Layer):
    """A learned blob as a top: the two share their memory, data and diff.

    So the diff is what the layers above wrote last: unlike other types' it does not add up over passes."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        if not self.blobs:
            self.add_blob(self.p.shape.dim)
        self.check_given_blobs(self.p.shape.dim)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*self.p.shape.dim)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        # Each time: the blob may have been given another net's memory since. Not at set-up: as in BVLC, a loss_weight,
        # which is put in the top's diff there, is lost.
        self.blobs[0].grad_buffer()
        top[0].share_data(self.blobs[0])
        top[0].share_diff(self.blobs[0])
