"""The multi-layer perceptron on flattened pixels of seed S3."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from scanwise.models.specs import ModelRequest

ACTIVATION_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(nn.Module):
    """Flatten → (Linear → activation → dropout) per hidden width → Linear; no normalisation."""

    def __init__(
        self,
        num_inputs: int,
        widths: tuple[int, ...],
        num_outputs: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((num_inputs, *widths)):
            layers += [_linear(inputs, outputs, activation), ACTIVATION_LAYERS[activation]()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_outputs)

    def features(self, images: Tensor) -> Tensor:
        """Last hidden layer (b, d) of images (b, c, h, w)."""
        hidden: Tensor = self.body(images)
        return hidden

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, k) of features (b, d)."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def mlp(request: ModelRequest, *, widths: tuple[int, ...]) -> nn.Module:
    """c·h·w inputs, hidden `widths`, k logits; dropout (default none) after each hidden layer."""
    height, width = request.size_px
    num_inputs = request.channels * height * width
    return MLP(num_inputs, widths, request.num_outputs, request.activation, request.dropout_or(0.0))


def _linear(inputs: int, outputs: int, activation: str) -> nn.Linear:
    """He weights (arXiv:1502.01852) for the ReLU family, Glorot's for tanh and sigmoid."""
    layer = nn.Linear(inputs, outputs)
    if activation in {"tanh", "sigmoid"}:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
