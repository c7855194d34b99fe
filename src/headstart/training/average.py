"""An exponential moving average of a network's weights, which is then what is validated and kept."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a network's parameters and buffers, of which an update keeps the share ``decay``.

    The first update takes the weights as they are; each later one moves the average by ``1 - decay`` towards them.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Take the weights of ``source`` into the average, without waiting for the device."""
        pairs = list(zip(_tensors(self.module), _tensors(source), strict=True))
        # Counters, e.g. of a batch norm's batches, have no average.
        moving = [pair for pair in pairs if self.updates and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (self.updates and pair[0].is_floating_point())]
        if moving:
            torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - self.decay)
        for mine, theirs in copied:
            mine.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of updates as ``n_averaged``, and the average under ``module``."""
        weights = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates)} | weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave."""
        self.updates = int(state["n_averaged"])
        self.module.load_state_dict(
            {name.removeprefix("module."): tensor for name, tensor in state.items() if name != "n_averaged"}
        )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
