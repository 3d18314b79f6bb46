"""Parameter: a blob of weights as a top."""

from __future__ import annotations

from torchcaffe.core.blob import Blobs
from torchcaffe.core.layer import Layer, layer


@layer(bottoms=0, tops=1)
class Parameter(Layer):
    """A learned blob as a top, which shares its memory, data and diff.

    So its diff is what the layers above wrote last; unlike other types' diffs it does not add up over passes."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        if not self.blobs:
            self.add_blob(self.p.shape.dim)
        self.check_given_blobs(self.p.shape.dim)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(*self.p.shape.dim)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        # In every pass, since the blob may have been given another net's memory. Not at set-up, so that as in BVLC a
        # loss_weight, which is written to the top's diff there, is lost.
        self.blobs[0].grad_buffer()
        top[0].share_data(self.blobs[0])
        top[0].share_diff(self.blobs[0])
