"""The paper's three training set-ups (sections 4.1 and 4.2), as far as nets and solvers need them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    name: str  # --dataset
    title: str  # the column of Table 1
    test_photos: int
    test_batch: int  # the released test batch: a test of test_iter batches then sees the test set once

    @property
    def source(self) -> str:
        """The default folder of train_lmdb, val_lmdb and mean.binaryproto, relative to the current one."""
        return f"data/{self.name}"

    @property
    def test_iter(self) -> int:
        """Batches that cover the whole test set."""
        return -(-self.test_photos // self.test_batch)


DATASETS = {
    d.name: d
    for d in (
        # 235,529 + 20,000 are the released lists' counts; the paper's 234,599 + 19,930 do not add up to its 255,529
        Dataset("ava1", "AVA1 (delta = 0)", 20000, 50),
        # 7,500 low and 45,000 high photos to train on; the test set keeps delta = 0 (section 4.2)
        Dataset("ava1_delta1", "AVA1 (delta = 1)", 20000, 50),
        Dataset("ava2", "AVA2", 25553, 48),
    )
}
