"""Both sides' tokenisers and vocabularies: between readable text and word ids.

A corpus and the translators trained on it hold the same files for this, so one function opens
either.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from seqvis.artifacts import Artifact
from seqvis.config import settings_from
from seqvis.text.tokenizers import Tokenizer, TokenizerSettings, load_tokenizer
from seqvis.text.vocab import EOS, SPECIALS, UNK, Vocabulary

LANGUAGE_FILES = ("source.vocab", "target.vocab", "tokenizers.json", "source.spm", "target.spm")


@dataclass(frozen=True)
class Languages:
    """What turns a source text into ids and target ids into a text."""

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary

    def source_ids(self, tokens: Sequence[str]) -> list[int]:
        """Ids of a source sentence's tokens, `_eos_` last."""
        return [*self.source_vocabulary.ids(tokens), EOS]

    def target_ids(self, text: str) -> list[int]:
        """Ids of a target text, `_eos_` last."""
        return [*self.target_vocabulary.ids(self.target_tokenizer.tokenize(text)), EOS]

    def target_tokens(
        self, ids: Sequence[int], source_tokens: Sequence[str], attention: Tensor | None
    ) -> list[str]:
        """The words of a translation.

        A word that the model does not know is replaced by the source word that it attends to
        most (Luong et al. 2015, section 3.2), and left out if there is no attention.
        """
        tokens = []
        for place, number in enumerate(ids):
            if number == UNK:
                if attention is not None and len(source_tokens):
                    weights = attention[place, : len(source_tokens)]
                    tokens.append(source_tokens[int(weights.argmax())])
            elif number >= len(SPECIALS):
                tokens.append(self.target_vocabulary.words[number])
        return tokens


def load_languages(artifact: Artifact) -> Languages:
    """Opens the tokenisers and vocabularies of a corpus or a translator."""
    stored = json.loads(artifact.file("tokenizers.json").read_bytes())
    tokenizers: list[Tokenizer] = []
    vocabularies: list[Vocabulary] = []
    for side in ("source", "target"):
        where = f"{artifact.location.uri}/tokenizers.json"
        settings = settings_from(TokenizerSettings, stored[side], where)
        name = f"{side}.spm"
        model = artifact.file(name).read_bytes() if name in artifact.files else None
        tokenizers.append(load_tokenizer(settings, model))
        location = artifact.file(f"{side}.vocab")
        vocabularies.append(Vocabulary.from_bytes(location.read_bytes(), location.uri))
    return Languages(tokenizers[0], tokenizers[1], vocabularies[0], vocabularies[1])
