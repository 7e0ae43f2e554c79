"""BatchNorm statistics that can be trusted after a few steps."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormWarmup:
    """Let running statistics begin as the plain mean of the first batches.

    PyTorch starts them at mean 0 and variance 1 and moves a tenth of the way at each step. In deep
    networks, whose inner variances are far below 1, the start still shows after a hundred steps:
    a few epochs of a small data set, in which evaluation looks like chance though training goes
    well. With step t moving max(momentum, 1/(t + 1)) of the way, the start is forgotten at once.

    Call with the number of steps done before each training step:

    >>> model = nn.Sequential(nn.BatchNorm1d(2))
    >>> warm_up = BatchNormWarmup(model)
    >>> warm_up(0)
    >>> model[0].momentum
    1.0
    >>> warm_up(500)
    >>> model[0].momentum
    0.1
    """

    def __init__(self, model: nn.Module) -> None:
        self._momenta = [
            (module, module.momentum)
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.momentum is not None
        ]

    def __call__(self, step: int) -> None:
        """Set the momentum of every BatchNorm for step `step` >= 0; depends on nothing else."""
        for module, momentum in self._momenta:
            module.momentum = max(momentum, 1 / (step + 1))
