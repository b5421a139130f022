"""Translation memories: what is read of their units, and what is refused in words."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from seqvis.corpus.inputs.opening import open_input
from seqvis.corpus.inputs.source import PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.errors import ConfigError, DataError
from tests.support.pairs import read


def memory(*segments: str, doctype: str = "") -> bytes:
    """A TMX file of one unit in French, and one with this content."""
    return (
        f'<?xml version="1.0"?>\n{doctype}<tmx version="1.4"><body>\n'
        f'<tu><tuv xml:lang="fr"><seg>un</seg></tuv></tu>\n<tu>{"".join(segments)}</tu>\n'
        f"</body></tmx>\n"
    ).encode()


ENGLISH = '<tuv xml:lang="en-GB"><seg>one</seg></tuv>'
FRENCH = '<tuv lang="FR"><seg>%s</seg></tuv>'
BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (memory(FRENCH % "&b;", ENGLISH, doctype=BOMB), None, "a: line 2 declares the entity a; "),
        (
            memory(FRENCH % "&nbsp;", ENGLISH, doctype='<!DOCTYPE tmx SYSTEM "tmx14.dtd">'),
            None,
            "a: line 4 has the entity &nbsp;, which is not XML's; write the character",
        ),
        (memory(FRENCH % "&nbsp;", ENGLISH), None, "a: line 4, column .* not XML .undefined ent"),
        (memory(FRENCH % "caf\x01", ENGLISH), None, "a: line 4, column .*invalid token.*; repair"),
        (memory(ENGLISH, FRENCH % "un")[:-9], None, "a: line 5, .* not XML .unclosed token"),
        (memory(ENGLISH), None, "a: no unit is in both fr and en, the languages are fr, en-GB; "),
        (memory(ENGLISH, FRENCH % "un"), "fr,en-US", "no unit is in both fr and en-US"),
        (b'<?xml version="1.0" encoding="big5"?><tmx/>', None, "a: its encoding cannot be read"),
        (b'<?xml version="1.0"?><tmx><body/></tmx>', None, "a: holds no translation unit"),
        (b'<?xml version="1.0"?><xliff/>', None, "a: is XML, but no TMX"),
        (b"PAR1 and so on", "fr,en", "a: damaged or cut off Parquet file .*; fetch it again"),
        (
            gzip.compress(b"PAR1 and so on", mtime=0),
            "fr,en",
            "a: is a compressed Parquet file; unpack",
        ),
    ],
)
def test_a_memory_or_parquet_file_that_does_not_fit_is_refused(
    content: bytes, columns: str | None, message: str, opened: Callable[..., PairSource]
) -> None:
    Path("a").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(pairs="a", columns=columns)


def test_units_keep_their_text_and_lose_native_codes(opened: Callable[..., PairSource]) -> None:
    marked = (
        'Le <bpt i="1">&lt;b&gt;<sub>gras</sub></bpt><hi>mot</hi><ept i="1">x</ept>\n  &amp; co'
    )
    two = '<tuv xml:lang="fr-CA"><seg>char</seg></tuv><tuv xml:lang="fr-FR"><seg>auto</seg></tuv>'
    Path("a").write_bytes(
        memory(FRENCH % marked, ENGLISH, f"</tu><tu><note>no</note>{two}{ENGLISH}")
    )
    expected = {"fr,en": ["", "Le mot & co", "char"], "fr-FR,en-GB": ["", "", "auto"]}
    for columns, texts in expected.items():
        rows = read(opened(pairs="a", columns=columns))
        assert [row["source"] for row in rows] == texts
        assert [row["problem"] for row in rows] == [None if text else "blank" for text in texts]
        Path("scratch/pairs.parquet").unlink()
    same = PrepareSettings(source_lang="en", target_lang="en", out="out", pairs="a")
    with pytest.raises(ConfigError, match=r"a: both sides are en; .* such as pt-BR,pt-PT"):
        open_input(same, "train")
