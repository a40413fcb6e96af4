"""Torch's random numbers, kept apart: each student of a cohort draws from a sequence of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """Where the generators stand that a network on this device draws from: the CPU's, and the GPU's if it is one."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Put the generators back to where they stood."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


class RandomSequence:
    """A sequence of random numbers that goes on where it was left; it begins where the generators stand now.

    Args:
        device: of the network that draws from it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.state = random_state(device)

    def diverge(self, number: int) -> None:
        """Go over to another sequence, one for each number, that follows from where this one is; 0 is this one."""
        if number == 0:
            return
        with self.drawn():
            torch.manual_seed(int(torch.randint(2**62, ())) + number)

    @contextmanager
    def drawn(self, *, go_on: bool = True) -> Iterator[None]:
        """Draw from this sequence in the block; others find theirs as they left it.

        Args:
            go_on: the next block begins where this one ends; if not, where this one began.
        """
        others = random_state(self._device)
        set_random_state(self.state, self._device)
        try:
            yield
        finally:
            if go_on:
                self.state = random_state(self._device)
            set_random_state(others, self._device)
