"""What people write into networks of their own, and what they give to a sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import seeded
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import LayerError, MethodError, ModelError
from convatlas.occlusion import Sweeper, blurred, sweep

SIDES = (31, 45)
SIZE, STRIDE = 8, 7


def image() -> Tensor:
    return torch.randn(3, *SIDES, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A convolution, something in between, and class scores."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("offset", torch.linspace(0, 1, 8, dtype=torch.double)[:, None, None])
        self.function = function
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def head(self, x: Tensor) -> Tensor:
        return 3 * self.fc(x.mean((2, 3)))


class Scaled(Net):
    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        x = self.conv(x * scale)
        return self.head(x if mask is None else x * mask) * scale


class AnyNumber(Net):
    def forward(self, *images: Tensor) -> Tensor:
        return self.head(self.conv(images[0]))


class Two(Net):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.head(self.conv(x) + other)


class Digits(nn.Module):
    """PyTorch's example for MNIST, with three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 10, 5), nn.Conv2d(10, 20, 5)
        self.fc1, self.fc2 = nn.Linear(20 * 4 * 8, 50), nn.Linear(50, 10)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        x = functional.relu(self.fc1(x.view(-1, 20 * 4 * 8)))
        return functional.log_softmax(functional.dropout(self.fc2(x), training=self.training), 1)


def changes_its_input(net: Net, x: Tensor) -> Tensor:
    x -= 0.5
    if x.sum() > 1e9:
        x = x * 2
    return net.head(net.conv(x))


def by_values(net: Net, x: Tensor) -> Tensor:
    x = net.conv(x)
    if x.sum() > 1e9:
        x = x * 2
    return net.head(x.view(len(x), 8, -1, 22))


def normalised(net: Net, x: Tensor) -> Tensor:
    x = (x - net.mean.to(x)) / torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).to(x)
    return net.head(net.conv(x) + net.offset.to(x) + torch.zeros(8, 1, 1).type_as(x))


def strided(net: Net, x: Tensor) -> Tensor:
    return net.head(net.conv(x).as_strided((len(x), 8, 9, 9), (15 * 22 * 8, 15 * 22, 22, 1)))


NETWORKS: dict[str, nn.Module] = {
    "view": Digits(),
    "view with a size": Net(lambda n, x: 3 * n.fc(n.conv(x).view(x.size(0), 8, -1).mean(2))),
    "view by values": Net(by_values),
    "defaults": Scaled(lambda n, x: x),
    "any number": AnyNumber(lambda n, x: x),
    "normalised": Net(normalised),
    "changes its input": Net(changes_its_input),
    "strided": Net(strided),
    "norm of the batch": Net(
        lambda n, x: n.head(functional.batch_norm(n.conv(x), None, None, training=True).relu())
    ),
    "less the batch's mean": Net(lambda n, x: n.head(n.conv(x - 0.5 * x.mean(0, keepdim=True)))),
    "over the batch's largest": Net(
        lambda n, x: n.head(n.conv(x / x.abs().amax((0, 2, 3), keepdim=True)))
    ),
    "less the batch flipped": Net(lambda n, x: n.head(n.conv(x - 0.5 * x.flip(0)))),
    "power": Net(lambda n, x: n.head(n.conv(x) ** 2)),
}


def expected(model: nn.Module) -> np.ndarray:
    """Return the scores at each position, one image at a time."""
    model.eval()
    found = []
    rows, columns = (range(0, length - SIZE + STRIDE, STRIDE) for length in SIDES)
    for row in rows:
        for column in columns:
            occluded = image()
            occluded[:, row : row + SIZE, column : column + SIZE] = 0
            with torch.no_grad():
                found.append(model(occluded[None])[0])
    return torch.stack(found).reshape(len(rows), len(columns), -1).numpy()


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.asarray(torch.softmax(torch.from_numpy(scores), -1))


@pytest.mark.parametrize("engine", ["incremental", "plain"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_ones_own(name: str, engine: str) -> None:
    given, model = image(), NETWORKS[name]
    result = sweep(model, given, SIZE, STRIDE, engine=engine)
    assert torch.equal(given, image())
    probability = softmax(expected(model))
    assert probability.std(axis=(0, 1)).max() > 1e-3
    np.testing.assert_allclose(result.probability, probability, atol=5e-6)


@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_on_the_network_itself_are_seen(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda n, x: n.head(n.conv(x)))
    if kind == "forward":
        model.register_forward_hook(lambda m, given, out: 0.1 * out)
    else:
        model.register_forward_pre_hook(lambda m, given: (given[0] * 0.1,))
    result = sweep(model, image(), SIZE, STRIDE)
    np.testing.assert_allclose(result.probability, softmax(expected(model)), atol=5e-6)
    assert any("other scores than the network itself" in text for text in caplog.messages)


@pytest.mark.parametrize("traceable", [True, False])
def test_probabilities_are_taken_as_they_are(traceable: bool) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        if not traceable and x.sum() > 1e9:
            x = x * 2
        return net.head(x).softmax(1)

    model = Net(forward)
    result = sweep(model, image(), SIZE, STRIDE)
    np.testing.assert_allclose(result.probability, expected(model), atol=5e-6)
    forced = sweep(model, image(), SIZE, STRIDE, outputs="scores")
    np.testing.assert_allclose(forced.probability, softmax(expected(model)), atol=5e-6)


def test_sigmoids_on_request() -> None:
    model = Net(lambda n, x: n.head(n.conv(x)).sigmoid())
    result = sweep(model, image(), SIZE, STRIDE, outputs="probabilities")
    np.testing.assert_allclose(result.probability, expected(model), atol=5e-6)


def test_a_chosen_unit() -> None:
    model = Net(lambda n, x: n.head(n.conv(x)))
    for unit in (2, 5):
        result = sweep(model, image(), SIZE, STRIDE, layer="conv", unit=unit)
        assert result.unit == unit
        with torch.no_grad():
            maps = model.conv(image()[None])[0, unit]
        assert result.clean_map_sum == pytest.approx(float(maps.sum()), rel=1e-5)
        assert result.value == pytest.approx(float(maps.max()), rel=1e-5)
        assert result.location == divmod(int(maps.argmax()), maps.shape[1])
    with pytest.raises(LayerError, match="no unit 8; its units are 0 to 7"):
        sweep(model, image(), layer="conv", unit=8)


def test_numbers_of_numpy_and_torch() -> None:
    model = Net(lambda n, x: n.head(n.conv(x)))
    plain = sweep(model, image(), SIZE, STRIDE)
    for size in (np.int64(8), np.float32(8), torch.tensor(8), np.array([8, 8])):
        np.testing.assert_array_equal(
            sweep(model, image(), size, STRIDE).probability, plain.probability
        )
    fill = torch.zeros(3, 1, 1)
    np.testing.assert_array_equal(
        sweep(model, image(), SIZE, STRIDE, fill).probability, plain.probability
    )
    assert repr(plain) == "<Sweep of 4 classes at 5 x 7 positions of 8 x 8 pixels>"


def test_a_parallel_network_is_unwrapped() -> None:
    model = Net(lambda n, x: n.head(n.conv(x)))
    result = sweep(nn.DataParallel(model), image(), SIZE, STRIDE)
    np.testing.assert_array_equal(result.probability, sweep(model, image(), 8, 7).probability)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": None}, "size is None; it takes one number, or two"),
        ({"size": (8, None)}, "it takes one number, or two"),
        ({"size": 1.0}, "size is 1.0; it must be a whole number of pixels"),
        ({"stride": True}, "stride is True"),
        ({"dtype": torch.float64}, "dtype is torch.float64; it can be torch.float16"),
        ({"dtype": "float16"}, "dtype is float16; it can be torch.float16"),
        ({"fill": float("nan")}, "fill isn't finite"),
        ({"batch_size": 2.5}, r"batch size is 2\.5; it must be a whole number"),
        ({"outputs": "logits"}, "outputs are 'logits'; they can be auto, scores"),
        ({"unit": 3}, "unit 3 is of no layer"),
    ],
)
def test_options_that_arent_any(options: dict, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        sweep(Net(lambda n, x: n.head(n.conv(x))), image(), **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: sweep(m, image().numpy()), MethodError, "the image is a ndarray"),
        (lambda m: sweep(m, image().byte()), MethodError, "image is of torch.uint8"),
        (lambda m: sweep(m, image() * 1j), MethodError, "image is of torch.complex64"),
        (lambda m: sweep(None, image()), MethodError, "the model is a NoneType"),
        (lambda m: Sweeper(m, SIDES), MethodError, "must be channels, height and width"),
        (lambda m: blurred(image(), 0), MethodError, "sigma is 0"),
        (lambda m: sweep(Two(None), image()), ModelError, "takes also 'other'"),
        (lambda m: sweep(m, image(), layer="nope"), LayerError, "receptive_fields` lists them"),
    ],
)
def test_what_isnt_what_it_should_be(call: Callable, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call(Net(lambda n, x: n.head(n.conv(x))))


def test_a_module_without_maps_in_a_network_that_cant_be_traced() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        if x.sum() > 1e9:
            x = x * 2
        return net.fc(net.rnn(x.mean(2).transpose(1, 2))[0].mean(1))

    model = Net(forward)
    model.rnn = nn.GRU(8, 8, batch_first=True)
    with pytest.raises(LayerError, match="'rnn' gives no feature maps"):
        sweep(model, image(), layer="rnn")


def test_falling_back_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="convatlas")
    sweep(Net(by_values), image(), SIZE, STRIDE)
    assert [text for text in caplog.messages if "depends on the values it sees" in text]
