"""Which of torchrun's processes this one is."""

import os
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..stores.errors import UsageError


class Sliceable(Protocol):
    """A range, a list or an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: slice, /) -> Any: ...


ItemsT = TypeVar("ItemsT", bound=Sliceable)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The place of this process among those that torchrun started; the only one without torchrun.

    Attributes:
        rank: its number among all, from 0.
        world_size: how many there are.
        local_rank: its number on this machine.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> "Ranks":
        """From ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE``, which torchrun sets.

        Raises:
            UsageError: they are not numbers that fit together.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(name in os.environ for name in names):
            return cls()
        said = ", ".join(f"{name}={os.environ[name]}" for name in names)
        try:
            rank, world_size, local_rank = (int(os.environ[name]) for name in names)
            local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        except ValueError:
            raise UsageError(f"The environment says {said}, which are not numbers. Start with torchrun.") from None
        if not (0 <= rank < world_size and 0 <= local_rank < local_size <= world_size):
            raise UsageError(f"The environment says {said}, which do not fit together. Start with torchrun.")
        return cls(rank=rank, world_size=world_size, local_rank=local_rank, local_size=local_size)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, items: ItemsT) -> ItemsT:
        """The run of ``items`` that is this process's: equal shares, in order."""
        return nth_part(items, self.rank, self.world_size)


def nth_part(items: ItemsT, number: int, count: int) -> ItemsT:
    """The ``number``-th (from 0) of ``count`` equal parts of a sequence; sizes differ by one at most."""
    return items[len(items) * number // count : len(items) * (number + 1) // count]
