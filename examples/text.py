"""A second modality: which language a few words are in. Data, teacher and student for ``python:text:NAME`` specs.

A sample is four words in a row of a sentence, as UTF-8 bytes; whole sentences are held out for the split ``test``. The
teacher counts character trigrams. The student embeds bytes, looks at three neighbours at a time, and takes the mean.

Usage (docs/specs.md): kdpipe extract --data python:text:load,split=train --teacher python:text:teacher --out text.kd

Shapes: B batch, L bytes of a sample, C languages, E width of the embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

SENTENCES = {
    "English": """
        The file that you are looking for was not found on this machine
        Please check the address and try again in a few minutes
        We have sent a message with further steps to your mailbox
        This field is required and must not be left empty
        You do not have the right to change these settings
        The weather was so good that we went for a walk
        My sister bought three apples and a loaf of bread
        Nobody knows why the train from the north was late
        Choose a new password with at least twelve letters
        The children are playing in the garden behind the house
        She has been reading the same book since last winter
        Would you like to save the changes before you leave
        Every evening they watch the boats that come home
        It should be easy to understand what this button does""",
    "German": """
        Die gesuchte Datei wurde auf diesem Rechner nicht gefunden
        Bitte prüfen Sie die Adresse und versuchen Sie es später noch einmal
        Wir haben eine Nachricht mit den nächsten Schritten an Sie geschickt
        Dieses Feld muss ausgefüllt werden und darf nicht leer bleiben
        Sie haben nicht das Recht diese Einstellungen zu ändern
        Das Wetter war so schön dass wir spazieren gegangen sind
        Meine Schwester kaufte drei Äpfel und einen Laib Brot
        Niemand weiß warum der Zug aus dem Norden zu spät kam
        Wählen Sie ein neues Kennwort mit mindestens zwölf Zeichen
        Die Kinder spielen im Garten hinter dem alten Haus
        Sie liest seit dem letzten Winter immer das gleiche Buch
        Möchten Sie die Änderungen vor dem Schließen noch speichern
        Jeden Abend sehen sie den Booten zu die nach Hause kommen
        Es sollte leicht zu verstehen sein was dieser Knopf macht""",
    "French": """
        Le fichier que vous cherchez est introuvable sur cette machine
        Veuillez vérifier cette adresse et réessayer dans quelques minutes
        Nous vous avons envoyé un message avec les prochaines étapes
        Ce champ est obligatoire et ne peut pas rester vide
        Vous n'avez pas le droit de modifier ces paramètres
        Il faisait si beau que nous sommes allés nous promener
        Ma soeur a acheté trois pommes et une miche de pain
        Personne ne sait pourquoi le train du nord était en retard
        Choisissez un nouveau mot de passe avec au moins douze lettres
        Les enfants jouent dans le jardin derrière la vieille maison
        Elle lit toujours le même livre depuis l'hiver dernier
        Voulez-vous enregistrer les changements avant de partir
        Chaque soir ils regardent les bateaux qui rentrent au port
        Il devrait être facile de comprendre ce que fait ce bouton""",
    "Spanish": """
        El archivo que usted busca no se encontró en este equipo
        Por favor compruebe la dirección y vuelva a intentarlo más tarde
        Hemos enviado un mensaje con los siguientes pasos a su buzón
        Este campo es obligatorio y no puede quedar vacío
        Usted no tiene permiso para cambiar estos ajustes
        Hacía tan buen tiempo que salimos a dar un paseo
        Mi hermana compró tres manzanas y una barra de pan
        Nadie sabe por qué el tren del norte llegó tarde
        Elija una nueva contraseña con al menos doce letras
        Los niños juegan en el jardín detrás de la casa vieja
        Ella lee el mismo libro desde el invierno pasado
        Desea guardar los cambios antes de cerrar la ventana
        Todas las noches miran los barcos que vuelven al puerto
        Debería ser fácil entender lo que hace este botón""",
    "Finnish": """
        Etsimääsi tiedostoa ei löytynyt tältä koneelta
        Tarkista osoite ja yritä uudelleen muutaman minuutin kuluttua
        Olemme lähettäneet sinulle viestin jossa kerrotaan miten jatketaan
        Tämä kenttä on pakollinen eikä sitä saa jättää tyhjäksi
        Sinulla ei ole oikeutta muuttaa näitä asetuksia
        Sää oli niin kaunis että lähdimme kävelylle metsään
        Siskoni osti kolme omenaa ja yhden leivän
        Kukaan ei tiedä miksi pohjoisen juna oli myöhässä
        Valitse uusi salasana jossa on vähintään kaksitoista merkkiä
        Lapset leikkivät puutarhassa vanhan talon takana
        Hän on lukenut samaa kirjaa viime talvesta lähtien
        Haluatko tallentaa muutokset ennen kuin suljet ikkunan
        Joka ilta he katsovat veneitä jotka palaavat kotiin
        Pitäisi olla helppo ymmärtää mitä tämä painike tekee""",
}
LENGTH, WORDS, BUCKETS = 64, 4, 4096
# every so many sentences, one is held out
HELD_OUT = 4


class Phrases:
    """A map-style data set of ({"tokens": (L,), "mask": (L,)}, label): bytes plus 1, then zeros."""

    def __init__(self, split: str) -> None:
        self.classes = list(SENTENCES)
        self.sample_ids: list[str] = []
        self.targets: list[int] = []
        self._phrases: list[bytes] = []
        for label, (language, text) in enumerate(SENTENCES.items()):
            for number, sentence in enumerate(text.strip().splitlines()):
                if (number % HELD_OUT == HELD_OUT - 1) == (split == "test"):
                    self._add(f"{language}/{number}", label, sentence.lower().split())

    def _add(self, name: str, label: int, words: list[str]) -> None:
        for start in range(len(words) - WORDS + 1):
            self.sample_ids.append(f"{name}/{start}")
            self.targets.append(label)
            self._phrases.append(" ".join(words[start : start + WORDS]).encode()[:LENGTH])

    def __len__(self) -> int:
        return len(self._phrases)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        ids = torch.tensor(list(self._phrases[index])) + 1
        tokens = pad(ids, (0, LENGTH - len(ids)))
        return {"tokens": tokens, "mask": (tokens > 0).float()}, self.targets[index]


class TrigramTeacher(nn.Module):
    """Naive Bayes over hashed trigrams of bytes, counted in the training sentences (add-one smoothing)."""

    evidence: Tensor

    def __init__(self) -> None:
        super().__init__()
        phrases = Phrases("train")
        counts = torch.ones(BUCKETS, len(phrases.classes))
        for inputs, label in phrases:
            buckets, kept = _trigrams(inputs["tokens"][None], inputs["mask"][None])
            counts[:, label] += (one_hot(buckets[0], BUCKETS) * kept[0, :, None]).sum(0)
        log_shares = (counts / counts.sum(0)).log()
        # about zero, where float16 is finest: what is the same for all languages does not change their probabilities
        self.register_buffer("evidence", log_shares - log_shares.mean(1, keepdim=True))

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


def load(split: str) -> Phrases:
    return Phrases(split)


def teacher() -> nn.Module:
    return TrigramTeacher()


def student(num_classes: int, width: int = 32) -> nn.Module:
    return ByteStudent(num_classes, width)


def _trigrams(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The bucket of every three bytes in a row, and whether all three are there: both (B, L - 2)."""
    one, two, three = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]
    return (one * 257 * 257 + two * 257 + three) * 2654435761 % 2**32 // (2**32 // BUCKETS), mask[:, 2:]
