"""Doing things for several students so that one that fails does not stop the others."""

from collections.abc import Callable, Mapping
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Failures(dict[int, Exception]):
    """The exception that took a student out, by its number.

    An ``OSError`` is not a student's: a full disk or a folder that is gone would stop the next one too. It is raised.
    """

    def attempt(self, number: int, action: Callable[[], ResultT]) -> ResultT | None:
        """Do something for a student that has not failed; None where it fails or has failed."""
        if number in self:
            return None
        try:
            return action()
        except OSError:
            raise
        except Exception as error:  # whatever it is, the other students go on
            self[number] = error
            return None

    def each(self, items: Mapping[int, ItemT], make: Callable[[int, ItemT], ResultT]) -> dict[int, ResultT]:
        """What is made for each student, without those that fail."""
        made = {number: self.attempt(number, lambda n=number, i=item: make(n, i)) for number, item in items.items()}
        return {number: result for number, result in made.items() if number not in self}  # pyright: ignore[reportReturnType]
