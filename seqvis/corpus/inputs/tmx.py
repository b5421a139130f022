"""Pairs in a translation memory (TMX 1.4), streamed once and copied to Parquet.

A unit holds the same text in several languages. Native codes within a text (bpt, ept, it, ph, ut)
are left out with what they contain; the text within other marks, such as hi, stays. A row of the
copy is a unit, in the order of the file; a unit without one of the languages is a blank pair.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from xml.parsers import expat

import pyarrow as pa

from seqvis.cluster import Progress
from seqvis.corpus.blocks import run_items
from seqvis.corpus.inputs.parquet import ParquetPairs, open_parquet, write_pairs
from seqvis.corpus.inputs.source import SHOWN, Columns
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.text.lines import open_unpacked
from seqvis.text.spacy_languages import canonical_or_same

COPIED_UNITS = 20_000  # at a time
TEXT_BYTES = 1 << 20  # a longer text is cut, so that none fills the memory
READ_BYTES = 1 << 20

_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})


def index_memory(
    uri: str, languages: Columns, scratch: Location, progress: Progress
) -> ParquetPairs:
    """Copy the units of a file in one task. Raises DataError if none has both languages."""
    place = scratch / "pairs.parquet"

    def copy(languages: Columns) -> int:
        write_pairs(read_units(locate(uri), languages), place)
        return 1

    list(run_items([languages], copy, "unpacking", progress))
    names = f"{uri}, language {languages[0]}", f"{uri}, language {languages[1]}"
    return open_parquet(place, uri, ("source", "target"), names)


def read_units(location: Location, languages: Columns) -> Iterator[pa.Table]:
    """Yield the texts of each unit in two languages, as columns source and target.

    A language with a region, such as fr-CA, is that alone, and one without is any of its variants,
    of which the first in a unit counts. Raises DataError, naming the line, for what is no TMX.
    """
    units = _Units(languages)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = units.start
    parser.EndElementHandler = units.end
    parser.CharacterDataHandler = units.text
    # An entity that the file declares can stand for any amount of text.
    parser.EntityDeclHandler = units.refuse_declaration
    parser.SkippedEntityHandler = units.refuse_unknown
    try:
        with open_unpacked(location) as stream:
            while block := stream.read(READ_BYTES):
                parser.Parse(block, False)
                if len(units.pairs) >= COPIED_UNITS:
                    yield units.taken()
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(
            f"{location.uri}: line {error.lineno}, column {error.offset + 1} is not XML "
            f"({expat.ErrorString(error.code)}); repair it, or correct the encoding that the "
            f"first line names"
        ) from error
    except (ValueError, LookupError) as error:  # of Python's handler of encodings
        raise DataError(
            f"{location.uri}: its encoding cannot be read ({error}); convert it to UTF-8, in the "
            f"first line too"
        ) from error
    except _EntityError as error:
        raise DataError(f"{location.uri}: line {parser.CurrentLineNumber} {error}") from None
    units.check(location.uri)
    if units.pairs:
        yield units.taken()


class _EntityError(Exception):
    """An entity that is not one of XML's own."""


class _Units:
    """What expat's handlers have gathered."""

    def __init__(self, languages: Columns):
        self.pairs: list[list[str | None]] = []  # of the units that were not taken yet
        self._languages = languages
        self._seen: Counter[str] = Counter()
        self._complete = self._all = 0
        self._unit: list[str | None] = [None, None]
        self._language = ""
        self._text: list[str] | None = None  # of the segment that is open
        self._length = 0
        self._codes = 0  # how many elements are open within a segment, from a native code on

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._unit = [None, None]
        elif name == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang", "")
            self._seen[self._language] += 1
        elif name == "seg":
            self._text, self._length, self._codes = [], 0, 0
        elif self._text is not None and (self._codes or name in _CODES):
            self._codes += 1

    def text(self, text: str) -> None:
        if self._text is not None and not self._codes and self._length < TEXT_BYTES:
            self._text.append(text)
            self._length += len(text)

    def end(self, name: str) -> None:
        if name == "tu":
            self.pairs.append(self._unit)
            self._all += 1
            self._complete += None not in self._unit
        elif name == "seg" and self._text is not None:
            for side, wanted in enumerate(self._languages):
                if self._unit[side] is None and _is_variant(self._language, wanted):
                    self._unit[side] = "".join(self._text)
            self._text = None
        elif self._codes:
            self._codes -= 1

    def refuse_declaration(self, name: str, *_: Any) -> None:
        raise _EntityError(f"declares the entity {name}; write what it stands for in its place")

    def refuse_unknown(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            raise _EntityError(f"has the entity &{name};, which is not XML's; write the character")

    def taken(self) -> pa.Table:
        """Return the units as a table, and forget them."""
        sources, targets = (
            pa.array([pair[side] for pair in self.pairs], pa.string()) for side in (0, 1)
        )
        self.pairs = []
        return pa.table({"source": sources, "target": targets})

    def check(self, uri: str) -> None:
        """Raise DataError if no unit has both languages."""
        if self._complete:
            return
        if not self._all:
            raise DataError(f"{uri}: holds no translation unit (<tu>); give another file")
        seen = ", ".join(language or "none" for language, _ in self._seen.most_common(SHOWN))
        raise DataError(
            f"{uri}: no unit is in both {' and '.join(self._languages)}, the languages are {seen}; "
            f"give others of them by --source-lang and --target-lang, or by --columns"
        )


@lru_cache(maxsize=1000)
def _is_variant(language: str, wanted: str) -> bool:
    tag, wanted = (code.replace("_", "-").lower() for code in (language, wanted))
    if "-" in wanted:
        return f"{tag}-".startswith(f"{wanted}-")
    return canonical_or_same(tag) == canonical_or_same(wanted)
