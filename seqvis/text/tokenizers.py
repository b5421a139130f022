"""Split text into tokens and join them again: spaCy's rules, SentencePiece, or plain white space.

Tokens are lower-cased if the settings say so, and `detokenize` restores readable text. No model is
downloaded: spaCy's blank pipelines contain only rules. These look at one white-space separated word
at a time, so words are looked up in a bounded cache and only new words reach spaCy, which forgets
them at once. That is several times faster than tokenising whole lines. A word is split in its
lower-cased form, so that DON'T and don't are split at the same place; a word of more than 250
characters is first cut into pieces of that length.
"""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import AfterValidator

from seqvis.config import Settings
from seqvis.errors import ArtifactError, ConfigError
from seqvis.text.characters import (
    by_character,
    clean_text,
    is_protected,
    normalize_punctuation,
    protecting,
)
from seqvis.text.spacing import (
    CAPITALIZED,
    CASE_TOKENS,
    UPPER,
    LearnedSpacing,
    join_tokens,
    restore_case,
    upper_first,
)
from seqvis.text.spacy_languages import (
    add_lower_cased_exceptions,
    canonical_or_same,
    has_rules,
    spacy_tokenizer,
)

_WORD = re.compile(r"\S+")
_MARKED = re.compile(rf"(?:({'|'.join(CASE_TOKENS)})\s*)+(\S*)")  # the last mark and its word

CACHED_WORDS = 100_000  # at most about 30 MB a tokenizer
FEW_WORDS = 4_096  # the same for one that lives long and reads what strangers write
LONGEST_WORD = 250  # characters that are split at once; splitting takes their number squared


class TokenizerSettings(Settings):
    """How the text of one language becomes tokens."""

    kind: Literal["spacy", "sentencepiece", "whitespace"] = "spacy"
    """spacy: rules by language; sentencepiece: learned sub-words; whitespace: split at spaces"""
    language: Annotated[str, AfterValidator(canonical_or_same)]
    """language code, such as fr or en"""
    lowercase: bool = True
    """lower-case the text"""
    case_token: bool = False
    """put _cap_ or _up_ before a capitalised or all-capital word; words like iPhone stay as they
    are"""
    normalize_punctuation: bool = False
    """map curly quotes, dashes, the ellipsis and odd spaces to plain characters first"""

    @property
    def keeps_case(self) -> bool:
        """Whether the tokens tell capitals from small letters."""
        return self.case_token or not self.lowercase


class Tokenizer(Protocol):
    """The interface of every kind of tokenizer."""

    settings: TokenizerSettings

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of one line; an empty list for a blank one."""
        ...

    def tokenize_many(self, texts: Iterable[str]) -> list[list[str]]:
        """Return the tokens of many lines."""
        ...

    def read(self, text: str) -> tuple[list[str], list[str]]:
        """Return the tokens of one line, and each as the text writes it; "" for a case token."""
        ...

    def detokenize(self, tokens: Sequence[str]) -> str:
        """Return readable text; there must be no specials among the tokens."""
        ...


def load_tokenizer(
    settings: TokenizerSettings,
    model: bytes | None = None,
    spacing: LearnedSpacing | None = None,
    cached_words: int = CACHED_WORDS,
) -> Tokenizer:
    """Return the tokenizer that `settings` describe; `model` holds SentencePiece's model file.

    `spacing` is what a corpus taught about putting text back, and `cached_words` how many words
    are kept with their tokens; SentencePiece needs neither.

    spaCy's rules, which for French take seconds to load, are loaded when the first word is split;
    ConfigError is raised then if spaCy cannot split the language (`check_language` tells before).
    Raises ArtifactError for a bad model.
    """
    if settings.kind == "sentencepiece":
        return SentencePieceTokenizer(settings, model)
    return WordTokenizer(settings, spacing, cached_words)


def check_language(settings: TokenizerSettings) -> None:
    """Raise ConfigError if spaCy is to tokenise a language that it does not know.

    It loads nothing for a language that spaCy has a folder of.
    """
    if settings.kind == "spacy" and not has_rules(settings.language):
        _spacy_splitter(settings.language)


class SplitWord(NamedTuple):
    """The tokens of a word, and the text of each as it was written ("" for a case token)."""

    tokens: tuple[str, ...]
    written: tuple[str, ...]


class WordTokenizer:
    """Splits each white-space separated word by rules, with a bounded cache of words."""

    def __init__(
        self, settings: TokenizerSettings, spacing: LearnedSpacing | None, cached_words: int
    ):
        self.settings = settings
        self._language = settings.language if settings.kind == "spacy" else None
        self._spacing = spacing
        self._split: Callable[[str], list[str]] | None = None
        self._cache: dict[str, SplitWord] = {}
        self._cached_words = cached_words

    def tokenize(self, text: str) -> list[str]:
        return self.read(text)[0]

    def tokenize_many(self, texts: Iterable[str]) -> list[list[str]]:
        return [self.tokenize(text) for text in texts]

    def read(self, text: str) -> tuple[list[str], list[str]]:
        tokens: list[str] = []
        written: list[str] = []
        for word in clean_line(text, self.settings).split():
            split = self._split_word(word)
            tokens += split.tokens
            written += split.written
        return tokens, written

    def detokenize(self, tokens: Sequence[str]) -> str:
        if self.settings.case_token:
            return join_tokens(restore_case(tokens), self._language, self._spacing)
        text = join_tokens(tokens, self._language, self._spacing)
        return _capitalised(text, tokens) if self.settings.lowercase else text

    def split_word(self, word: str) -> tuple[str, ...]:
        """Return the tokens of a word without white space in it."""
        return self._split_word(word).tokens

    def _split_word(self, word: str) -> "SplitWord":
        return self._cache.get(word) or self._analyse(word)

    def _analyse(self, word: str) -> "SplitWord":
        tokens: list[str] = []
        written: list[str] = []
        pieces = [word[at : at + LONGEST_WORD] for at in range(0, len(word), LONGEST_WORD)]
        for part in (part for piece in pieces for part in self._parts(piece)):
            marked = cased(part, self.settings)
            tokens += marked
            written += ["", part] if len(marked) > 1 else [part]
        split = SplitWord(tuple(tokens), tuple(written))
        if len(word) <= LONGEST_WORD:  # so that the cache is bounded whatever is written
            if len(self._cache) >= self._cached_words:
                self._cache.clear()
            self._cache[word] = split
        return split

    def _parts(self, word: str) -> list[str]:
        if self._split is None:
            self._split = _spacy_splitter(self._language) if self._language else str.split
        lowered = word.lower()
        parts = [part for part in self._split(lowered) if not part.isspace()]
        if lowered == word or "".join(parts) != lowered or len(lowered) != len(word):
            return parts if lowered == word else [p for p in self._split(word) if not p.isspace()]
        ends = list(accumulate(map(len, parts)))
        return [word[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]


class SentencePieceTokenizer:
    """Splits text into the sub-words of a SentencePiece model, each a token of the vocabulary."""

    def __init__(self, settings: TokenizerSettings, model: bytes | None):
        import sentencepiece

        if not model:
            raise ArtifactError("a SentencePiece tokenizer needs its model: the corpus has none")
        self.settings = settings
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ArtifactError(f"the SentencePiece model cannot be read ({error})") from error

    def pieces(self) -> list[str]:
        """Return every piece of the model that text can become, in the model's order."""
        model = self._processor
        return [
            model.id_to_piece(number)
            for number in range(model.get_piece_size())
            if not (model.is_control(number) or model.is_unknown(number))
        ]

    def tokenize(self, text: str) -> list[str]:
        return list(self._processor.encode(prepare_text(text, self.settings), out_type=str))

    def tokenize_many(self, texts: Iterable[str]) -> list[list[str]]:
        lines = [prepare_text(text, self.settings) for text in texts]
        return list(self._processor.encode(lines, out_type=str, num_threads=1)) if lines else []

    def read(self, text: str) -> tuple[list[str], list[str]]:
        tokens = self.tokenize(text)
        return tokens, ["" if token in CASE_TOKENS else token for token in tokens]

    def detokenize(self, tokens: Sequence[str]) -> str:
        text = self._processor.decode_pieces(list(tokens))
        if self.settings.case_token:
            return _MARKED.sub(lambda marked: "".join(restore_case(marked.groups())), text).rstrip()
        return _capitalised(text, text.split()) if self.settings.lowercase else text


def _capitalised(text: str, words: Iterable[str]) -> str:
    """Return the text with a capital at its start, unless that is a placeholder or an address."""
    first = next((word for word in words if any(map(str.isalnum, word))), "")
    return text if is_protected(first) else upper_first(text)


def clean_line(text: str, settings: TokenizerSettings) -> str:
    """Return the line as it is split: clean, with plain punctuation if the settings ask for it."""
    text = clean_text(text)
    return normalize_punctuation(text) if settings.normalize_punctuation else text


def prepare_text(text: str, settings: TokenizerSettings) -> str:
    """Return the line as SentencePiece sees it: punctuation and case treated, words apart."""
    text = clean_line(text, settings)
    if not settings.lowercase:
        return text
    if not settings.case_token:
        return text.lower()
    # No-break spaces stay: the pieces are to give them back.
    return _WORD.sub(lambda word: " ".join(cased(word[0], settings)), text)


def cased(part: str, settings: TokenizerSettings) -> list[str]:
    """Return the token of a part of a word, after a case token if it has one.

    With case tokens, a part whose capitals no case token describes (iPhone) stays as it is, and
    without them a placeholder or an address does.
    """
    if not settings.lowercase or is_protected(part):
        return [part]
    lowered = part.lower()
    if lowered == part or not settings.case_token:
        return [lowered]
    if part == upper_first(lowered):
        return [CAPITALIZED, lowered]
    return [UPPER, lowered] if lowered.upper() == part else [part]


def train_sentencepiece(
    lines: Iterable[str], settings: TokenizerSettings, size: int, seed: int
) -> bytes:
    """Train a model of at most `size` pieces on `lines` and return its file's content.

    Unigram model (Kudo 2018) with byte fallback, so that no text is unknown to it. A corpus too
    small for `size` pieces gives fewer. Memory grows with `lines`: pass a bounded sample.
    """
    import io

    import sentencepiece

    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    marks = [UPPER, CAPITALIZED] if settings.case_token else []
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(prepare_text(line, settings) for line in lines),
        model_writer=model,
        normalization_rule_name="identity",  # the default would turn ？ into ? and … into ...
        vocab_size=size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.9995,
        max_sentence_length=100_000,
        user_defined_symbols=marks,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _spacy_splitter(language: str) -> Callable[[str], list[str]]:
    try:
        # spaCy's Chinese is single characters, those of Latin words and numbers too.
        tokenizer = spacy_tokenizer("mul" if language == "zh" else language)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"{language}: spaCy cannot tokenise this language "
            f"({str(error).splitlines()[0][:120]}); use a code such as fr, en or de, "
            "or --tokenizer sentencepiece"
        ) from error
    add_lower_cased_exceptions(tokenizer)

    one_zone = threading.Lock()  # they must not be nested

    def split(word: str) -> list[str]:
        with one_zone, tokenizer.vocab.memory_zone():  # else spaCy keeps every string it has seen
            return [token.text for token in tokenizer(word)]

    return protecting(by_character(split) if language == "zh" else split)
