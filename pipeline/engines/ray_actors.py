"""Chunks made by actors on a Ray cluster (extra ``ray``).

Each actor loads data and teacher itself and writes its chunks to the store's folder, which all nodes must share. Only
numbers of chunks go to an actor and numbers of rows come back: logits never enter Ray's object store, and the driver
needs neither the data, nor the teacher, nor a GPU.

An actor that is lost, with its node or alone, is replaced, and what it was making is made again: whole chunks stay, and
a chunk made twice has the same content.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...stores import KdpipeError, Manifest
from ...stores.claims import ChunkClaims
from ..config import ExtractConfig
from ..extract import prepare
from .actor_bounds import parse_actors
from .job import ExtractJob, ExtractResult, Progress
from .ray_cluster import check_ray, cluster, first_line

logger = logging.getLogger(__name__)

# consecutive chunks that an actor is given at once, so that its loader reads ahead; fewer near the end
_CHUNKS_A_TASK = 8
# how often one chunk may lose its actor: a chunk that kills every actor must not be tried for ever
_ATTEMPTS = 10
_PATIENCE_SECONDS = 60.0


def make_store_on_ray(config: ExtractConfig, on_progress: Callable[[Progress], None]) -> ExtractResult:
    """Make the chunks that are missing with a pool of actors, and finish the store.

    Args:
        config: what to do; ``actors`` bounds the pool.
        on_progress: called after every few chunks.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: this process was started by torchrun.
        KdpipeError: the cluster cannot be reached, a chunk has lost ten actors, or what an actor raises.
    """
    check_ray()
    import ray

    with cluster():
        resources = ray.cluster_resources()
        on_gpus = config.device.startswith("cuda") or (config.device == "auto" and resources.get("GPU", 0) >= 1)
        least, most = parse_actors(config.actors, int(resources.get("GPU" if on_gpus else "CPU", 1)))
        pool = _Pool(replace(config, out=config.out.absolute()), least, most, num_gpus=int(on_gpus))
        try:
            return pool.run(on_progress)
        finally:
            pool.close()


class _Maker:
    """What an actor is: one worker in a process of its own; every method can be the first that is called."""

    def __init__(self, config: ExtractConfig, folder: str) -> None:
        self._config, self._folder = config, folder

    @cached_property
    def _job(self) -> ExtractJob:
        if Path(self._folder).is_dir():  # so that relative names mean what they mean to the driver
            os.chdir(self._folder)
        return prepare(self._config)

    def prepare(self) -> int:
        """Load data and teacher, and begin or find the store; nothing is computed."""
        _ = self._job
        return 0

    def look(self) -> tuple[Manifest, list[int]]:
        """The manifest, and the chunks that are missing."""
        writer = self._job.writer
        return writer.manifest, [] if writer.complete else writer.missing_chunks()

    def make(self, chunks: list[int]) -> int:
        """Make those that are missing; returns how many rows that was.

        The driver has given them to this actor alone: a claim on one is of an actor that was lost.
        """
        claims = ChunkClaims(self._job.writer.root, take_over=True)
        try:
            return max(self._job.worker.run(chunks, claims), default=0)  # it counts upwards
        finally:
            for chunk in chunks:
                claims.release(chunk)

    def finish(self) -> Manifest:
        """Remove the claims that lost actors left, and mark the store complete."""
        ChunkClaims(self._job.writer.root).release_all()
        return self._job.finish()


class _Pool:
    """Actors, and what each of them is doing."""

    def __init__(self, config: ExtractConfig, least: int, most: int, *, num_gpus: int) -> None:
        import ray
        from ray import exceptions

        self._ray, self._raised = ray, exceptions.RayTaskError
        self._lost = (
            exceptions.RayActorError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        )
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=num_gpus, max_restarts=0)(_Maker)
        self._arguments = (config, str(Path.cwd()))
        self._least, self._most = least, most
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, list[int]]] = {}  # by the reference to what comes back: actor, its chunks
        self._losses: Counter[str] = Counter()

    def run(self, on_progress: Callable[[Progress], None]) -> ExtractResult:
        """Make what is missing, and finish the store."""
        manifest, missing = self._ask("look")
        if manifest.state == "complete":
            return ExtractResult(manifest=manifest, computed=0, was_complete=True)
        grid = manifest.grid
        total, computed = manifest.num_samples * manifest.num_views, 0
        found = total - sum(len(grid.rows(chunk)) for chunk in missing)
        for rows in self._make(missing):
            computed += rows
            on_progress(Progress(found=found, computed=computed, total=total))
        return ExtractResult(manifest=self._ask("finish"), computed=computed)

    def close(self) -> None:
        """End all actors; what they have written stays."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)

    def _ask(self, method: str) -> Any:
        """The answer of one actor, of another one if that is lost."""
        while True:
            actor = self._idle.pop() if self._idle else self._actor.remote(*self._arguments)
            reference = getattr(actor, method).remote()
            self._busy = {reference: (actor, [])}
            try:
                answer = self._answer(reference, f"to {method}")
            except self._lost:
                continue
            self._idle.append(actor)
            return answer

    def _make(self, missing: list[int]) -> Iterator[int]:
        """Have the chunks made; gives the rows of each task that is done."""
        queue = deque(_tasks(missing, self._most))
        ready, least = len(self._idle), min(self._least, len(queue))
        for _ in range(min(self._most, len(queue)) - ready):
            self._add_actor()
        while queue or any(chunks for _, chunks in self._busy.values()):
            while queue and self._idle and ready >= least:
                actor, chunks = self._idle.pop(), queue.popleft()
                self._busy[actor.make.remote(chunks)] = actor, chunks
            reference = self._next()
            actor, chunks = self._busy[reference]
            try:
                rows = self._answer(reference, f"chunk {chunks[0]}" if chunks else "to prepare")
            except self._lost as error:
                logger.warning("an actor was lost and is replaced: %s", first_line(error))
                queue.extendleft([chunk] for chunk in reversed(chunks))  # one by one, should one of them be the cause
                self._add_actor()
                continue
            self._idle.append(actor)
            if chunks:
                yield rows
            else:
                ready += 1

    def _add_actor(self) -> None:
        """Ask the cluster for one more; it prepares as soon as there is room for it."""
        actor = self._actor.remote(*self._arguments)
        self._busy[actor.prepare.remote()] = actor, []

    def _next(self) -> Any:
        """The next reference whose answer, or loss, is here."""
        while True:
            done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_PATIENCE_SECONDS)
            if done:
                return done[0]
            if not any(chunks for _, chunks in self._busy.values()):
                logger.warning("waiting for Ray to place actors: %s is free", self._ray.available_resources())

    def _answer(self, reference: Any, doing: str) -> Any:
        """What an actor answers.

        Raises:
            KdpipeError: what it raises, or that too many were lost over this.
            RayError: it is lost.
        """
        actor, _ = self._busy[reference]
        try:
            return self._ray.get(reference)
        except self._raised as error:
            raise error.cause from None
        except self._lost as error:
            self._ray.kill(actor)  # where only the way to it was lost
            self._losses[doing] += 1
            if self._losses[doing] >= _ATTEMPTS:
                raise KdpipeError(
                    f"{_ATTEMPTS} actors were lost over the same work ({doing}): {first_line(error)} "
                    "What is finished is kept: mend this and run the command again."
                ) from None
            raise
        finally:
            del self._busy[reference]


def _tasks(chunks: Sequence[int], actors: int) -> Iterator[list[int]]:
    """The chunks in order, some at a time; one at a time near the end, so that the actors end together."""
    start = 0
    while start < len(chunks):
        size = max(1, min(_CHUNKS_A_TASK, (len(chunks) - start) // (2 * actors)))
        yield list(chunks[start : start + size])
        start += size
