"""Settings of `prepare_corpus`: languages, filters, tokens, vocabularies, the split."""

from typing import Literal, Self

from pydantic import Field, model_validator

from seqvis.config import Settings
from seqvis.text.spacy_languages import LanguageCode
from seqvis.text.tokenizers import TokenizerSettings
from seqvis.text.vocabulary import LARGEST


class PrepareSettings(Settings):
    """Sentence pairs in, a corpus for training a translator out."""

    source: str | None = None
    """text file in the language to translate from, one sentence per line; path or URI, .gz too"""
    target: str | None = None
    """its translation: line n of both files belong together"""
    pairs: str | None = None
    """instead of both, a file or dataset that has both sides: TSV, JSON lines, TMX or Parquet; a
    folder of Hugging Face's save_to_disk, or hf://NAME or hf://NAME:CONFIGURATION from its hub"""
    columns: str | None = None
    """of --pairs and --valid-pairs: the columns of source and target, by number, by name or by
    path, such as 2,4 or fr,en or translation.fr,translation.en; of TMX, languages: fr-CA,en-US"""
    split: str | None = None
    """the split of a Hugging Face dataset; without it, train"""
    source_lang: LanguageCode
    """language code of the source: ISO 639 or BCP 47, such as fr, fra or fr-CA (stored as fr)"""
    target_lang: LanguageCode
    """language code of the target, such as en, eng or en_GB (stored as en)"""
    out: str
    """directory for the corpus; on several machines a URI or a folder they all share"""
    valid_source: str | None = None
    """validation text in the source language; without it a part of the corpus is split off"""
    valid_target: str | None = None
    """validation text in the target language"""
    valid_pairs: str | None = None
    """instead of both, a file or dataset of validation pairs"""
    valid_split: str | None = None
    """the split of a Hugging Face dataset in --valid-pairs or, without these, in --pairs; of
    --valid-pairs validation is the default"""

    filter: Literal["none", "questions"] = "none"
    """questions: keep pairs that start with a question, wh-questions on the English side"""
    max_target_length: int = Field(30, ge=0)
    """longest target in tokens, end mark included; longer pairs are dropped; 0: no limit"""
    max_length_ratio: float = Field(3.0, ge=0)
    """drop a pair if one side has more than this many times the other's tokens; 0: no limit"""
    drop_duplicates: bool = True
    """keep only the first of equal pairs"""
    allow_unequal: bool = False
    """if one file is longer, use the lines that both have instead of stopping"""
    max_bad_share: float = Field(0.01, ge=0, le=1)
    """stop if more than this share of the lines is not UTF-8 or too long"""
    max_line_bytes: int = Field(10_000, ge=1)
    """longest line in bytes; longer ones count as bad"""

    tokenizer: Literal["spacy", "sentencepiece", "whitespace"] = "spacy"
    """spacy: rules by language; sentencepiece: learned sub-words; whitespace: split at spaces"""
    lowercase: bool = True
    """lower-case the text"""
    case_token: bool = True
    """keep case: put _cap_ or _up_ before a lower-cased word; without it capitals are lost"""
    normalize_punctuation: bool = False
    """map curly quotes, dashes and odd spaces to plain characters before tokenising; without it
    they are kept, and a translator maps a form that it does not know to the one that it knows"""
    sentencepiece_size: int = Field(8_000, ge=300, le=LARGEST)
    """most sub-words of a SentencePiece model, 256 of them single bytes"""
    sentencepiece_joint: bool = False
    """one SentencePiece model for both languages"""
    sentencepiece_sample: int = Field(500_000, ge=1)
    """most sentences that a SentencePiece model is trained on (about 2 kB of memory each)"""

    max_vocabulary: int = Field(40_000, ge=1, le=LARGEST)
    """most words of a vocabulary, the four specials not counted"""
    min_count: int = Field(1, ge=1)
    """a word must occur this often in the training part"""
    unknown_share: float = Field(0.01, ge=0, le=0.2)
    """show up to this share of the training words as `_unk_`, taken from half of those that occur
    once, so that the model learns to copy words that it does not know; 0: none"""
    uncased_share: float = Field(0.05, ge=0, le=1)
    """show this share of the training sources in small letters, so that text typed without
    capitals, or in capitals alone, is understood; 0: none"""
    source_percentile: float = Field(97, gt=0, le=100)
    """sources are cut at the length that this percentage of them does not exceed"""
    target_percentile: float = Field(99, gt=0, le=100)
    """targets are cut at the length that this percentage of them does not exceed"""

    valid_share: float = Field(0.1, gt=0, lt=1)
    """share of the source sentences split off for validation"""
    seed: int = 0
    """another seed gives another split"""
    lines_per_block: int = Field(50_000, ge=1)
    """lines that one task handles; memory grows with it, the result does not depend on it"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for flag, source, target, pairs in (
            ("--", self.source, self.target, self.pairs),
            ("--valid-", self.valid_source, self.valid_target, self.valid_pairs),
        ):
            if (source is None) != (target is None):
                raise ValueError(f"{flag}source and {flag}target must be given together")
            if source is not None and pairs is not None:
                raise ValueError(f"give {flag}source and {flag}target, or {flag}pairs alone")
        if self.columns is not None:
            names = [name.strip() for name in self.columns.split(",")]
            if len(names) != 2 or not all(names) or names[0] == names[1]:
                raise ValueError(
                    "--columns needs two names or numbers, of two columns, with a comma between"
                )
        if self.tokenizer == "sentencepiece" and self.sentencepiece_size > self.max_vocabulary:
            raise ValueError("--sentencepiece-size must not be above --max-vocabulary")
        return self

    @property
    def holds_out(self) -> bool:
        """Whether a part of the pairs is split off for validation, since none is given."""
        return self.valid_source is None and self.valid_pairs is None and self.valid_split is None

    def tokenizer_settings(self, side: str) -> TokenizerSettings:
        """Return the tokenizer settings of the `source` or the `target`."""
        return TokenizerSettings(
            kind=self.tokenizer,
            language=self.source_lang if side == "source" else self.target_lang,
            lowercase=self.lowercase,
            case_token=self.case_token,
            normalize_punctuation=self.normalize_punctuation,
        )
