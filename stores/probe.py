"""Proof that the libraries that draw augmented views draw as they did when a store was made."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from .errors import MismatchError


@dataclass(frozen=True, kw_only=True)
class LibraryProbe:
    """What an augmentation makes of fixed images, and the libraries it was made with.

    Attributes:
        digest: over all results.
        libraries: version by name.
    """

    digest: Annotated[str, Meta(max_length=200)]
    libraries: dict[Annotated[str, Meta(max_length=200)], Annotated[str, Meta(max_length=200)]]

    def check(self, now: "LibraryProbe", place: str) -> None:
        """See that views drawn now are those drawn then.

        Args:
            now: of the libraries that are installed, for the same augmentation.
            place: what the views belong to, for the message.

        Raises:
            MismatchError: the libraries draw or compute something else now.
        """
        if now.digest == self.digest:
            return
        names = sorted(set(self.libraries) | set(now.libraries))
        versions = {name: (self.libraries.get(name, "unknown"), now.libraries.get(name, "unknown")) for name in names}
        changed = [f"{name} {then} then, {here} now" for name, (then, here) in versions.items() if then != here]
        same = ", ".join(f"{name} {here}" for name, (_, here) in versions.items())
        raise MismatchError(
            f"The augmented views of {place} cannot be drawn again here: fixed images come out otherwise than when it "
            f"was made ({'; '.join(changed) or f'with the same versions, {same}: another processor or build'}). "
            "Use the versions it was made with, or extract the views again."
        )
