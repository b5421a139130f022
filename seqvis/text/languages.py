"""The tokenisers and vocabularies of both languages, which convert between text and word ids.

A corpus and the translators trained on it store the same files for this, so one function opens
either. `Languages.read` prepares a sentence for a translator: a word that is missing from the
vocabulary is tried in other spellings, and if it stays unknown, it is copied into the translation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seqvis.artifacts import Artifact
from seqvis.config import settings_from
from seqvis.text.characters import clean_text, is_pictograph, spellings, split_pictographs
from seqvis.text.spacing import CAPITALIZED, CASE_TOKENS, LearnedSpacing, upper_first
from seqvis.text.tokenizers import CACHED_WORDS, Tokenizer, TokenizerSettings, load_tokenizer
from seqvis.text.vocabulary import EOS, SPECIALS, UNK, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor  # whoever has an attention has loaded PyTorch

LANGUAGE_FILES = (
    "source.vocab", "target.vocab", "tokenizers.json", "source.spm", "target.spm",
    "target.spacing.json",
)  # fmt: skip


@dataclass(frozen=True)
class SourceSentence:
    """A source sentence, both as the model reads it and as it was written."""

    text: str
    tokens: tuple[str, ...]  # what the columns of the attention stand for
    written: tuple[str, ...]  # each token as the text has it; "" for a case token
    ids: tuple[int, ...]  # of the tokens; `_eos_` last
    pictographs: tuple[tuple[int, str], ...] = ()  # set aside, with the tokens before each

    @property
    def unknown(self) -> list[str]:
        """The words that the model does not know, as written."""
        return [self.written[place] for place in self.unknown_places()]

    @property
    def unknown_share(self) -> float:
        """The share of the words and marks that the model does not know."""
        return len(self.unknown_places()) / max(1, sum(map(bool, self.written)))

    def unknown_places(self) -> list[int]:
        return [place for place, number in enumerate(self.ids) if number == UNK]


@dataclass(frozen=True)
class Languages:
    """Converts source text into ids, and target ids into text."""

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary

    @property
    def keep_case(self) -> bool:
        """Whether translations have capitals from the model, so that scores should see them."""
        return self.target_tokenizer.settings.keeps_case

    def read(self, text: str) -> SourceSentence:
        """Read a sentence for translation.

        Emoji and other pictographs that the vocabulary does not hold are set aside. An unknown
        word is replaced by its nearest spelling that leaves less unknown, if there is one. A
        sentence all in capitals is read in small letters as far as those are known.
        """
        sentence = self.read_as_prepared(text)
        if UNK in sentence.ids or self._strange(sentence.tokens) or self._all_capitals(text):
            return self._read_word_by_word(text)
        return sentence

    def read_as_prepared(self, text: str) -> SourceSentence:
        """Read a sentence exactly as `prepare_corpus` does."""
        return self._sentence(text, *self.source_tokenizer.read(text))

    def target_ids(self, text: str) -> list[int]:
        """Return the ids of a target text, `_eos_` last."""
        return [*self.target_vocabulary.ids(self.target_tokenizer.tokenize(text)), EOS]

    def target_text(
        self, ids: Sequence[int], source: SourceSentence, attention: "Tensor | None"
    ) -> tuple[list[str], str]:
        """Return the words of a translation, and its text.

        A word that the model does not know is replaced by the unknown source word that it attends
        to most (after Luong et al. 2015, section 3.2), in the source's spelling; without attention
        the unknown words of both sides belong together in their order. An unknown name or number
        that is not copied so takes the place of the word that attends to it most. `attention` is
        (words, source tokens + 1).
        """
        copies = _copies(ids, source, attention)
        if attention is not None:
            copies |= self._names(ids, source, attention, copies)
        tokens: list[str] = []
        written: list[tuple[int, str]] = []  # with the row of the attention
        for row, number in enumerate(ids):
            if row in copies:
                tokens.append(source.written[copies[row]])
                if written and written[-1][1] in CASE_TOKENS:
                    written.pop()  # the copy keeps its own capitals
            elif number >= len(SPECIALS):
                tokens.append(self.target_vocabulary.words[number])
            else:
                continue
            written.append((row, tokens[-1]))
        words = [word for _, word in written]
        for before, pictograph in reversed(source.pictographs):
            place = _place_after(before, source, attention, [row for row, _ in written])
            words.insert(place, pictograph)
        return tokens, self.target_tokenizer.detokenize(words)

    def _names(
        self,
        ids: Sequence[int],
        source: SourceSentence,
        attention: "Tensor",
        copies: dict[int, int],
    ) -> dict[int, int]:
        """Return the unknown names and numbers that nothing copies yet, by row to put them in."""
        words = self.target_vocabulary.words
        rows = [
            row
            for row, number in enumerate(ids)
            if number >= len(SPECIALS)
            and words[number] not in CASE_TOKENS
            and any(map(str.isalnum, words[number]))
        ]
        places: dict[int, int] = {}
        for place in sorted(set(source.unknown_places()) - set(copies.values())):
            form = source.written[place]
            is_name = form != form.lower() or any(map(str.isdigit, form))
            if is_name and place < attention.shape[1] - 1 and rows:
                row = max(rows, key=lambda row: float(attention[row, place]))
                rows.remove(row)
                places[row] = place
        return places

    def _read_word_by_word(self, text: str) -> SourceSentence:
        capitals = self._all_capitals(text)
        tokens: list[str] = []
        written: list[str] = []
        pictographs: list[tuple[int, str]] = []
        for word in clean_text(text).split():
            for piece in split_pictographs(word):
                if is_pictograph(piece) and self._strange(self.source_tokenizer.tokenize(piece)):
                    pictographs.append((len(tokens), piece))
                    continue
                spelled = self._known_spelling(piece, capitals)
                for token, form in zip(*self.source_tokenizer.read(spelled), strict=True):
                    if token in CASE_TOKENS and token not in self.source_vocabulary:
                        continue
                    if self._is_unmarked_name(token, form, tokens):
                        tokens.append(CAPITALIZED)
                        written.append("")
                    tokens.append(token)
                    written.append(form)
        return replace(self._sentence(text, tokens, written), pictographs=tuple(pictographs))

    def _is_unmarked_name(self, token: str, form: str, before: Sequence[str]) -> bool:
        """Tell whether an unknown word with capitals (McDonald) has no case token before it.

        With one it looks as the names do from which the model has learnt to copy.
        """
        known = self.source_vocabulary
        marked = bool(before) and before[-1] in CASE_TOKENS
        return not marked and form != form.lower() and token not in known and CAPITALIZED in known

    def _known_spelling(self, word: str, capitals: bool) -> str:
        """Return the word, or its nearest spelling that leaves the least unknown."""
        fewest = self._strange(self.source_tokenizer.tokenize(word))
        if not (fewest or capitals):
            return word
        best = word
        small = [form.lower() for form in (word, *spellings(word))]
        if capitals:
            for form in small:
                if not self._strange(self.source_tokenizer.tokenize(form)):
                    return form
        for form in dict.fromkeys((*spellings(word), *small, *map(upper_first, small))):
            if not fewest:
                break
            strange = self._strange(self.source_tokenizer.tokenize(form))
            if strange < fewest:
                best, fewest = form, strange
        return best

    def _all_capitals(self, text: str) -> bool:
        """Tell whether several words are all in capitals, and the model would see that."""
        if not (text.isupper() and self.source_tokenizer.settings.keeps_case):
            return False
        return sum(len(word) > 1 and word.isupper() for word in text.split()) > 1

    def _strange(self, tokens: Sequence[str]) -> int:
        """Count the characters of unknown words and of SentencePiece's single bytes."""
        known = self.source_vocabulary
        return sum(
            len(token)
            for token in tokens
            if (token not in known or token.startswith("<0x")) and token not in CASE_TOKENS
        )

    def _sentence(self, text: str, tokens: list[str], written: list[str]) -> SourceSentence:
        ids = self.source_vocabulary.ids(tokens)
        return SourceSentence(text, tuple(tokens), tuple(written), (*ids, EOS))


def _copies(
    ids: Sequence[int], source: SourceSentence, attention: "Tensor | None"
) -> dict[int, int]:
    """Return the source tokens that unknown words of a translation copy, by row."""
    free = source.unknown_places()
    copies: dict[int, int] = {}
    for row in [row for row, number in enumerate(ids) if number == UNK]:
        if attention is None:
            places = free[:1]
        else:
            seen = attention.shape[1] - 1  # the last is `_eos_`; a source in training may be cut
            places = [place for place in free or source.unknown_places() if place < seen]
            places = places or [place for place, form in enumerate(source.written[:seen]) if form]
        if places:
            weights = None if attention is None else attention[row]
            place = max(places, key=lambda place: 0.0 if weights is None else float(weights[place]))
            copies[row] = place
            if place in free:
                free.remove(place)
    return copies


def _place_after(
    before: int, source: SourceSentence, attention: "Tensor | None", rows: Sequence[int]
) -> int:
    """Return where in a translation a pictograph after `before` source tokens belongs."""
    if before == 0:
        return 0
    if before < len(source.tokens) and attention is not None:
        nearest = attention.argmax(dim=1).tolist()
        places = [place for place, row in enumerate(rows) if nearest[row] == before - 1]
        if places:
            return places[-1] + 1
    return len(rows)


def load_languages(artifact: Artifact, cached_words: int = CACHED_WORDS) -> Languages:
    """Open the tokenizers and vocabularies of a corpus or a translator.

    `cached_words`: how many words a tokenizer keeps with their tokens.
    """
    source, target = (load_language(artifact, side, cached_words) for side in ("source", "target"))
    return Languages(source[0], target[0], source[1], target[1])


def load_language(
    artifact: Artifact, side: str, cached_words: int = CACHED_WORDS
) -> tuple[Tokenizer, Vocabulary]:
    """Open the tokenizer and the vocabulary of one side of a corpus or a translator."""
    stored = artifact.file("tokenizers.json")
    values = json.loads(stored.read_bytes())[side]
    settings = settings_from(TokenizerSettings, values, stored.uri)
    model, spacing = (
        artifact.file(name).read_bytes() if name in artifact.files else None
        for name in (f"{side}.spm", f"{side}.spacing.json")  # earlier versions learned no spacing
    )
    learned = LearnedSpacing.from_bytes(spacing) if spacing else None
    words = artifact.file(f"{side}.vocab")
    return (
        load_tokenizer(settings, model, learned, cached_words),
        Vocabulary.from_bytes(words.read_bytes(), words.uri),
    )
