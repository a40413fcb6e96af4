"""A second modality: which language a short text is in. Data, teacher and student for ``python:text:NAME`` specs.

The texts are the translations that come with Django (https://www.djangoproject.com, BSD-3-Clause; pip install django):
98 languages, from 551 texts down to 11, a long tail of nature's making. One in four is held out for the split
``test``. The teacher counts trigrams of bytes. The student embeds bytes, looks at three neighbours at a time, and takes
the mean.

Usage (docs/specs.md): kdpipe extract --data python:text:load,split=train --teacher python:text:teacher --out text.kd

Shapes: B batch, L bytes of a sample, C languages, E width of the embedding.
"""

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

LANGUAGES, LENGTH, BUCKETS = 98, 64, 4096
# of every so many texts, one is held out
HELD_OUT = 4
STRINGS = r'(?:"(?:[^"\\\n]|\\.)*"\s*)+'
PLACEHOLDER = re.compile(r"%\(\w+\)\w|%\w|\{\w*\}|<[^>]*>|&\w*;?|\\n")


class Texts:
    """A map-style data set of ({"tokens": (L,), "mask": (L,)}, label): bytes plus 1, then zeros.

    Args:
        split: ``train`` or ``test``.
        languages: how many, spread evenly over the long tail.
    """

    def __init__(self, split: str, languages: int = LANGUAGES) -> None:
        found = sorted(translations().items(), key=lambda item: -len(item[1]))
        self.classes = [found[number * len(found) // languages][0] for number in range(languages)]
        self.sample_ids: list[str] = []
        self.targets: list[int] = []
        self._texts: list[bytes] = []
        for label, language in enumerate(self.classes):
            for number, text in enumerate(translations()[language]):
                if (number % HELD_OUT == HELD_OUT - 1) == (split == "test"):
                    self.sample_ids.append(f"{language}/{number}")
                    self.targets.append(label)
                    self._texts.append(text.lower().encode()[:LENGTH])

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        ids = torch.tensor(list(self._texts[index])) + 1
        tokens = pad(ids, (0, LENGTH - len(ids)))
        return {"tokens": tokens, "mask": (tokens > 0).float()}, self.targets[index]


class TrigramTeacher(nn.Module):
    """Naive Bayes over hashed trigrams of bytes, counted in the training texts (add-one smoothing)."""

    evidence: Tensor

    def __init__(self, languages: int) -> None:
        super().__init__()
        counts = torch.ones(BUCKETS, languages)
        for inputs, label in Texts("train", languages):
            buckets, kept = _trigrams(inputs["tokens"][None], inputs["mask"][None])
            counts[:, label] += buckets[0].bincount(kept[0], minlength=BUCKETS)
        log_shares = (counts / counts.sum(0)).log()
        # about zero, where float16 is finest: what is the same for all languages does not change their probabilities;
        # and a third, because every byte is in three trigrams
        self.register_buffer("evidence", (log_shares - log_shares.mean(1, keepdim=True)) / 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, C) of tokens and mask (B, L)."""
        buckets, kept = _trigrams(tokens, mask)
        return (self.evidence[buckets] * kept[..., None]).sum(1)


class ByteStudent(nn.Module):
    """Embedding of bytes, one convolution over three neighbours, mean over the phrase, linear."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(257, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, C) of tokens and mask (B, L)."""
        embedded_BEL = self.embedding(tokens).transpose(1, 2)
        features_BEL = self.convolution(embedded_BEL).relu() * mask[:, None]
        return self.head(features_BEL.sum(2) / mask.sum(1, keepdim=True))


def load(split: str, languages: int = LANGUAGES) -> Texts:
    return Texts(split, languages)


def teacher(num_classes: int) -> nn.Module:
    return TrigramTeacher(num_classes)


def student(num_classes: int, width: int = 32) -> nn.Module:
    return ByteStudent(num_classes, width)


@cache
def translations() -> dict[str, list[str]]:
    """Different texts of at least 12 letters by language, without what a program would fill in.

    Raises:
        FileNotFoundError: Django is not installed.
    """
    django = importlib.util.find_spec("django")
    if django is None or django.origin is None:
        raise FileNotFoundError("The texts are Django's. Install it: pip install django")
    texts: dict[str, dict[str, None]] = {}
    for catalogue in sorted(Path(django.origin).parent.rglob("locale/*/LC_MESSAGES/*.po")):
        texts.setdefault(catalogue.parts[-3], {}).update(dict.fromkeys(_messages(catalogue.read_text("utf-8"))))
    return {language: list(found) for language, found in texts.items() if found}


def _messages(catalogue: str) -> Iterator[str]:
    """The translations in a catalogue of gettext."""
    for strings in re.findall(rf"^msgstr(?:\[\d\])? ({STRINGS})", catalogue, re.MULTILINE):
        text = re.sub(r'"\s*"', "", strings).strip().strip('"')
        words = PLACEHOLDER.sub(" ", text).split()
        if sum(map(str.isalpha, "".join(words))) >= 12 and not text.startswith("Project-Id-Version"):
            yield " ".join(words)


def _trigrams(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The bucket of every three bytes in a row, and whether all three are there: both (B, L - 2)."""
    one, two, three = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]
    return (one * 257 * 257 + two * 257 + three) * 2654435761 % 2**32 // (2**32 // BUCKETS), mask[:, 2:]
