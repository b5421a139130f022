"""Small prepared corpora for tests, written without Ray: what prepare_corpus would make."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from seqvis import artifacts
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from seqvis.text.vocabulary import EOS, Vocabulary

Pairs = Sequence[tuple[str, str]]


def write_corpus(folder: Path, train: Pairs, valid: Pairs) -> Path:
    """A corpus artifact at `folder`, with spaCy's tokenisers for French and English."""
    settings = [TokenizerSettings(kind="spacy", language=language) for language in ("fr", "en")]
    tokenizers = [load_tokenizer(setting) for setting in settings]
    tokens = [
        [tokenizer.tokenize_many([pair[side] for pair in pairs]) for pairs in (train, valid)]
        for side, tokenizer in enumerate(tokenizers)
    ]
    vocabularies = [
        Vocabulary.build(Counter(word for line in side[0] for word in line)) for side in tokens
    ]
    config = {"source_lang": "fr", "target_lang": "en"}
    with artifacts.create(str(folder), "corpus", config) as writer:
        writer.metrics["train_pairs"] = len(train)
        for part, (name, pairs) in enumerate((("train", train), ("valid", valid))):
            columns = {"row": pa.array(range(len(pairs)), pa.int64())}
            for side, column in enumerate(("source", "target")):
                ids = [[*vocabularies[side].ids(line), EOS] for line in tokens[side][part]]
                columns[column] = pa.array(ids, pa.list_(pa.uint16()))
            if name == "valid":
                columns["source_text"] = pa.array([pair[0] for pair in pairs])
                columns["target_text"] = pa.array([pair[1] for pair in pairs])
            pq.write_table(pa.table(columns), writer.path(f"{name}/part-00000.parquet").path)
        writer.path("source.vocab").write_bytes(vocabularies[0].to_bytes())
        writer.path("target.vocab").write_bytes(vocabularies[1].to_bytes())
        stored = dict(
            zip(("source", "target"), (setting.model_dump() for setting in settings), strict=True)
        )
        writer.write_json("tokenizers.json", stored)
    return folder
