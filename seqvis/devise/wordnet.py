"""WordNet 3.0's nouns: their names, and the graph of what is a kind of what.

In: `data/nouns.tsv.gz`, which the package carries (licence: `data/LICENSE.wordnet`), a line for
each of 82,115 synsets: wnid, lemmas, hypernyms. A wnid is `n` and the eight digits of WordNet's
offset, as ImageNet names its classes. Out: `WordNet`. What would surprise a reader: instances
(`Paris`) count as hyponyms of their class (`city`), since the table holds both as hypernyms.
"""

import gzip
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import resources
from typing import Self

_DATA = resources.files("seqvis.devise") / "data"


class WordNet:
    """All noun synsets. Read-only; `load` takes a third of a second."""

    def __init__(self, lemmas: Mapping[str, tuple[str, ...]], up: Mapping[str, tuple[str, ...]]):
        self._lemmas = lemmas
        self._up = up
        down: dict[str, list[str]] = {}
        for wnid, above in up.items():
            for hypernym in above:
                down.setdefault(hypernym, []).append(wnid)
        self._down = {wnid: tuple(below) for wnid, below in down.items()}

    @classmethod
    def load(cls) -> Self:
        lemmas, up = {}, {}
        with gzip.open(_DATA.joinpath("nouns.tsv.gz").open("rb"), "rt", encoding="utf-8") as lines:
            for line in lines:
                wnid, names, above = line.rstrip("\n").split("\t")
                if wnid != "wnid":
                    lemmas[wnid] = tuple(names.split())
                    up[wnid] = tuple(above.split())
        return cls(lemmas, up)

    def __contains__(self, wnid: object) -> bool:
        return wnid in self._lemmas

    def __len__(self) -> int:
        return len(self._lemmas)

    @property
    def wnids(self) -> list[str]:
        return list(self._lemmas)

    def lemmas(self, wnid: str) -> tuple[str, ...]:
        """The synset's names, most usual first; words of one are joined by `_`."""
        return self._lemmas[wnid]

    def name(self, wnid: str) -> str:
        """The synset's first name, with spaces."""
        return self._lemmas[wnid][0].replace("_", " ")

    def hypernyms(self, wnid: str) -> tuple[str, ...]:
        """What it is a kind of: the synsets directly above."""
        return self._up[wnid]

    def hyponyms(self, wnid: str) -> tuple[str, ...]:
        """The kinds of it: the synsets directly below."""
        return self._down.get(wnid, ())

    def rings(self, wnids: Iterable[str]) -> Iterator[set[str]]:
        """The given synsets, then those one step up or down from them, two steps, and so on."""
        ring = set(wnids)
        reached = set(ring)
        while ring:
            yield ring
            around = {near for wnid in ring for near in (*self._up[wnid], *self.hyponyms(wnid))}
            ring = around - reached
            reached |= ring

    def within_hops(self, wnids: Collection[str], hops: int) -> set[str]:
        """Synsets at most `hops` steps up or down from any of `wnids`, those themselves left out.

        The 2-hop and 3-hop label sets of the DeViSE paper (Frome et al. 2013), section 4.3.
        """
        found: set[str] = set()
        for distance, ring in enumerate(self.rings(wnids)):
            if distance > hops:
                break
            found |= ring
        return found - set(wnids)

    def nearest_labels(self, wnid: str, k: int, valid: Collection[str]) -> set[str]:
        """The set S_k of hierarchical precision@k (Frome et al. 2013, appendix A).

        It grows from the synset by one ring of hypernyms and hyponyms at a time, of which only
        `valid` labels count, until it holds at least k; the last ring is taken whole.
        """
        found: set[str] = set()
        for ring in self.rings([wnid]):
            found.update(label for label in ring if label in valid)
            if len(found) >= k:
                break
        return found


def imagenet_classes() -> list[tuple[str, str]]:
    """Wnid and name of ImageNet's 1,000 classes (ILSVRC 2012), in the order of class numbers."""
    text = _DATA.joinpath("ilsvrc2012.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines())
    return [(wnid, name) for wnid, name in pairs]
