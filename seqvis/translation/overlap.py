"""Recognise sentence pairs that a translator was trained on, by the ids of their words.

A translator stores one number for each of its training pairs, so that an evaluation on the same
text, or on a file that contains some of it, can report the overlap.
"""

import io
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from seqvis.artifacts import Artifact, ArtifactWriter
from seqvis.corpus.pairs import PairTable
from seqvis.text.languages import Languages
from seqvis.text.vocabulary import EOS

TRAINED_PAIRS = "trained_pairs.npz"
MOST_PAIRS = 1 << 20  # of a larger corpus a part is kept, chosen by the numbers themselves: 8 MB


def write_trained_pairs(writer: ArtifactWriter, pairs: PairTable) -> None:
    """Record the pairs of a training: 8 bytes each, in a larger corpus those of every nth."""
    numbers = [_number(pairs.source[row], pairs.target[row]) for row in range(len(pairs))]
    every = -(-len(numbers) // MOST_PAIRS)
    content = io.BytesIO()
    np.savez(
        content,
        numbers=np.unique(np.array([one for one in numbers if one % every == 0], np.uint64)),
        every=every,
        longest=[int(side.lengths.max()) for side in (pairs.source, pairs.target)],
    )
    writer.path(TRAINED_PAIRS).write_bytes(content.getvalue())


def trained_share(
    artifact: Artifact, languages: Languages, sources: Sequence[str], references: Sequence[str]
) -> float | None:
    """The share of the pairs that a translator was trained on; None if it does not say.

    After a training on more than a million pairs it is estimated from those of `sources` whose
    numbers would have been kept; None if there is none.
    """
    if TRAINED_PAIRS not in artifact.files:
        return None
    content = io.BytesIO(artifact.file(TRAINED_PAIRS).read_bytes())
    with np.load(content, allow_pickle=False) as kept:
        known, every = set(kept["numbers"].tolist()), int(kept["every"])
        longest_source, longest_target = kept["longest"].tolist()
    found = []
    for source, reference in zip(sources, references, strict=True):
        target = _cut(languages.target_ids(reference), longest_target)
        # Some sources are trained on in small letters (prepare_corpus --uncased-share).
        forms = dict.fromkeys((source, source.lower()))
        numbers = [
            _number(_cut(languages.read_as_prepared(form).ids, longest_source), target)
            for form in forms
        ]
        if any(number % every == 0 for number in numbers):
            found.append(any(number in known for number in numbers))
    return sum(found) / len(found) if found else None


def _cut(ids: Sequence[int], longest: int) -> Sequence[int]:
    """The ids as prepare_corpus cuts them."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], EOS]


def _number(source: Sequence[int] | np.ndarray, target: Sequence[int] | np.ndarray) -> int:
    digest = blake2b(digest_size=8)
    for side in (source, target):  # both end in _eos_, so no two pairs are the same bytes
        digest.update(np.asarray(side, dtype="<u2").tobytes())
    return int.from_bytes(digest.digest(), "little")
