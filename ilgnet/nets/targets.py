"""What a net learns, and with which loss: the paper's two classes, or what its last section leaves to future work.

Each target is made of BVLC Caffe's own layers and fillers alone, so real Caffe trains it, too. Its labels are in a
second LMDB, `train_LABEL_lmdb` beside `train_lmdb` with the same keys, which a second Data layer reads in step as the
blob `votes` (`ilgnet prepare --targets`). Layers whose weights are fixed (lr_mult 0) have constant fillers, so that
nothing has to be put into a caffemodel by hand."""

from collections.abc import Callable
from dataclasses import dataclass

from torchcaffe.proto import caffe_pb2
from torchcaffe.pycaffe.net_spec import NetSpec, Top
from torchcaffe.pycaffe.net_spec import layers as L

SCORES = 10  # AVA's people vote 1 to 10
FIXED = dict(param=dict(lr_mult=0, decay_mult=0))
IN_TEST = dict(include=dict(phase=caffe_pb2.TEST))


def constant(value: float) -> dict:
    """The filler of one value."""
    return dict(type="constant", value=value)


def weighted(weight: float) -> dict:
    """A loss_weight, which is left out where it is 1."""
    return {} if weight == 1 else dict(loss_weight=weight)


def head_of(name: str) -> str:
    """The head that a layer belongs to: loss1/loss -> loss1."""
    return name.split("/")[0]


def named(n: NetSpec, name: str, top: Top) -> Top:
    """Add a layer's top to the net under a name; returns it."""
    n[name] = top
    return top


# --- the score distribution ------------------------------------------------------------------------------------------


def running_sums(n: NetSpec, name: str, shares: Top) -> Top:
    """(N, 1, 1, 10) shares of the scores 1 to 10 -> (N, 1, 1, 19): the shares of votes up to 1, 2, ..., 10, then those
    of votes above 1, 2, ..., 9. It is a convolution with ten ones, at every place where the two overlap."""
    convolution = L.Convolution(
        shares,
        num_output=1,
        kernel_h=1,
        kernel_w=SCORES,
        pad_h=0,
        pad_w=SCORES - 1,
        bias_term=False,
        weight_filler=constant(1),
        **FIXED,
    )
    return named(n, name, convolution)


def distribution_loss(n: NetSpec, name: str, x: Top, weight: float) -> None:
    """The squared earth mover's distance of Talebi and Milanfar (NIMA, 2018, eq. 1 with r = 2, not rooted),

        EMD^2 = 1/10 sum over k of (CDF_p(k) - CDF_q(k))^2,

    as EuclideanLoss on the running sums: both p and q sum to 1, so the shares above k differ as much as those up to k,
    which makes up for the loss's factor 1/2. The loss_weight is NIMA's 1/10."""
    head = head_of(name)
    p = named(n, f"{head}/shares", L.Softmax(x))
    p = named(n, f"{head}/shares_row", L.Reshape(p, shape=dict(dim=[0, 1, 1, SCORES])))
    p = running_sums(n, f"{head}/running_sums", p)
    q = n["votes_running_sums"] if "votes_running_sums" in n.tops else running_sums(n, "votes_running_sums", n["votes"])
    n[name] = L.EuclideanLoss(p, q, loss_weight=weight / SCORES)


def distribution_test(n: NetSpec, name: str, x: Top) -> None:
    """The accuracy of "the expected mean is above 5". The mean is 1 + the shares above 1, 2, ..., 9."""
    head = head_of(name)
    up_to, above = f"{head}/up_to", f"{head}/above"
    n[up_to], n[above] = L.Slice(n[f"{head}/running_sums"], ntop=2, axis=3, slice_point=[SCORES], **IN_TEST)
    n[f"{head}/silence"] = L.Silence(n[up_to], ntop=0, **IN_TEST)
    ones = dict(weight_filler=constant(1), bias_filler=constant(1), param=[FIXED["param"]] * 2)
    mean = named(n, f"{head}/mean", L.InnerProduct(n[above], num_output=1, **ones, **IN_TEST))
    two_classes(n, name, mean)


def two_classes(n: NetSpec, name: str, mean: Top) -> None:
    """Accuracy of a mean score: 10 - mean stands for low, mean for high, so that "high" is a mean above 5."""
    head = head_of(name)
    low = named(n, f"{head}/low", L.Power(mean, scale=-1, shift=10, **IN_TEST))
    both = named(n, f"{head}/two_classes", L.Concat(low, mean, **IN_TEST))
    n[name] = L.Accuracy(both, n["label"], **IN_TEST)


# --- the mean score --------------------------------------------------------------------------------------------------


def mean_loss(n: NetSpec, name: str, x: Top, weight: float) -> None:
    """Half the squared distance to the mean vote."""
    n[name] = L.EuclideanLoss(x, n["votes"], **weighted(weight))


# --- ranking ---------------------------------------------------------------------------------------------------------


def pairs(n: NetSpec, name: str, x: Top, half: int) -> Top:
    """(N, 1) -> (N/2 * N/2, 1): the difference of every photo of the batch's first half to every one of its second."""
    first, second = f"{name}/first", f"{name}/second"
    n[first], n[second] = L.Slice(x, ntop=2, axis=0)
    rows = named(n, f"{name}/rows", L.Tile(n[first], axis=1, tiles=half))
    row = named(n, f"{name}/second_row", L.Reshape(n[second], shape=dict(dim=[1, half])))
    columns = named(n, f"{name}/columns", L.Tile(row, axis=0, tiles=half))
    d = named(n, f"{name}/differences", L.Eltwise(rows, columns, coeff=[1, -1]))
    return named(n, f"{name}/pairs", L.Reshape(d, shape=dict(dim=[half * half, 1])))


def ranking_loss(n: NetSpec, name: str, x: Top, weight: float) -> None:
    """max(0, 1 - (s_i - s_j)) on average over pairs where i has the higher mean vote. HingeLoss on (-d, d) counts each
    pair twice: hence the loss_weight. Of two photos with one mean the second counts as better."""
    head, half = head_of(name), n.choice.batch_size // 2
    d = pairs(n, f"{head}/scores", x, half)
    if "votes/better" not in n.tops:
        flat = named(n, "votes/flat", L.Reshape(n["votes"], shape=dict(dim=[2 * half, 1])))
        n["votes/better"] = L.Threshold(pairs(n, "votes", flat, half))
    turned = named(n, f"{head}/turned", L.Power(d, scale=-1))
    orders = named(n, f"{head}/two_orders", L.Concat(turned, d))
    n[name] = L.HingeLoss(orders, n["votes/better"], loss_weight=weight / 2)


def ranking_test(n: NetSpec, name: str, x: Top) -> None:
    """The share of pairs in the right order: a ranking knows no threshold between low and high."""
    n[name] = L.Accuracy(n[head_of(name) + "/two_orders"], n["votes/better"], **IN_TEST)


# --- the registry ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One thing to learn. `loss` adds the layers of training and testing, `test` those of testing alone."""

    name: str  # --target
    about: str
    answer: str  # what a net for deployment answers
    outputs: int = 2  # of the last layer with weights
    layer: str = "classifier_cjy"  # that layer's name behind its head's: another one than for another shape or meaning
    bias: float = 0  # what the last layer answers at first
    label: str | None = None  # the LMDB of labels: train_LABEL_lmdb
    loss: Callable | None = None  # (n, name, x, weight)
    test: Callable | None = None  # (n, name, x)
    reads_classes: bool = True  # the test reads the two-class label, too


TARGETS = {
    t.name: t
    for t in (
        Target("classes", "low or high, as in the paper", "[low, high]"),
        Target(
            "distribution",
            "the shares of the votes 1 to 10: Softmax, earth mover's distance",
            "the shares of the votes 1 to 10",
            *(SCORES, "distribution_cjy", 0, "distribution", distribution_loss, distribution_test),
        ),
        Target(
            "mean",
            "the mean vote: Euclidean distance",
            "the mean vote, 1 to 10",
            *(1, "mean_cjy", 5, "mean", mean_loss, two_classes),
        ),
        Target(
            "ranking",
            "which of two photos has the higher mean vote: pairs, hinge",
            "a score to rank by",
            *(1, "rank_cjy", 0, "mean", ranking_loss, ranking_test, False),
        ),
    )
}


def target_of(layer: str) -> Target | None:
    """The target that a net with a layer of this name learns, if it is the name of a last layer."""
    name = layer.split("/")[-1]
    return next((t for t in TARGETS.values() if name in (t.layer, f"{t.layer}_spp")), None)


def up_to_answers(net):
    """A copy of a NetParameter of one phase that ends in the answers of its last layers with weights: without what
    learns from votes, and without the layers that read them. A net of two classes stays as it is."""
    heads = {top for layer in net.layer for top in layer.top if (target_of(layer.name) or TARGETS["classes"]).label}
    behind = heads | {"votes"} if heads else set()
    kept = caffe_pb2.NetParameter()
    kept.CopyFrom(net)
    del kept.layer[:]
    for layer in net.layer:
        if behind & (set(layer.bottom) | ({"votes"} & set(layer.top))):
            behind |= set(layer.top)
        else:
            kept.layer.add().CopyFrom(layer)
    return kept
