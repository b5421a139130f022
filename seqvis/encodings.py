"""Recognise what the bytes of a file are: UTF-8 text, other text, compressed data, or no text.

Every reader of text uses these checks, so that a file in another encoding is refused with the
command that converts it, and is never read as noise. This module works on bytes;
`seqvis.text.lines` opens files.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from seqvis.errors import DataError

HEAD_BYTES = 64 << 10  # of a file are looked at before it is read
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}

_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}
_UNREADABLE = (
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a zip archive or an office document",
     "unpack it, or save the document as plain text in UTF-8"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\x1f\x9d"), "an archive", "unpack it first"),
    (re.compile(rb"[\s\S]{257}ustar"), "a tar archive", "unpack it first"),
    (re.compile(rb"%PDF-|\xd0\xcf\x11\xe0|\{\\rtf"), "a document, not plain text",
     "save it as plain text in UTF-8"),
    (re.compile(rb"PAR1"), "a Parquet file, not text", "export it as plain text in UTF-8"),
)  # fmt: skip
_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_CONTROLS = bytes({*range(9), *range(14, 32)} - {0x1A, 0x1B})  # 1A ends DOS files, 1B is ISO-2022's


def packing(head: bytes) -> str | None:
    """Return "gzip", "bz2", "xz", "zstd" or "lz4" for a compressed file's first 16 bytes."""
    return next((form for form, magic in _PACKED.items() if magic.match(head)), None)


def check_text(head: bytes, name: str) -> None:
    """Raise DataError if the start of the file `name` shows that it is no text in UTF-8.

    It does not look for single damaged lines; whoever decodes the text does.
    """
    form = packing(head)
    if form is not None:
        raise DataError(f"{name}: is compressed ({form}); unpack it first")
    for magic, what, remedy in _UNREADABLE:
        if magic.match(head):
            raise DataError(f"{name}: is {what}; {remedy}")
    wide = next((form for mark, form in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    wide = wide or _wide_encoding(head)
    if wide is None and re.search(rb"\x1b\$[@B]", head):
        wide = "ISO-2022-JP"
    if wide is not None:
        raise DataError(f"{name}: is {wide}; {_conversion(wide)}")
    if has_controls(head):
        raise DataError(f"{name}: is a binary file, not text; give a plain text file in UTF-8")


def check_line_ends(head: bytes, name: str) -> None:
    """Raise DataError if a file that is read by lines has the carriage returns of old Macs."""
    if b"\r" in head.rstrip(b"\r") and b"\n" not in head:
        raise DataError(
            f"{name}: its lines end in carriage returns alone, as on old Macs; convert it: "
            r"tr '\r' '\n' < in.txt > out.txt"
        )


def decode(content: bytes, name: str) -> str:
    """Return the text of a whole small file, whatever its line ends.

    Raises DataError, naming the first bad line, if it is not UTF-8.
    """
    check_text(content[:HEAD_BYTES], name)
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    bad = BadLines()
    for line in content.split(b"\n"):
        bad.decode(line)
    bad.check(name, 0)
    return content.removeprefix(BYTE_ORDER_MARK).decode()


@dataclass
class BadLines:
    """Decodes lines, and records those that are not UTF-8 or contain NUL bytes, as no text does."""

    lines: int = 0  # decoded so far, good and bad
    count: int = 0
    first: list[int] = field(default_factory=list)  # numbers from 1 of the first three
    _sample: bytearray = field(default_factory=bytearray)
    _good: int = 0  # lines with UTF-8 characters outside ASCII

    def decode(self, line: bytes) -> str | None:
        """Return the text of the next line, None if it is bad."""
        self.lines += 1
        try:
            text = line.decode()
            if "\0" not in text:
                self._good += not line.isascii()
                return text
        except UnicodeDecodeError:
            pass
        self.count += 1
        if len(self.first) < 3:
            self.first.append(self.lines)
        if len(self._sample) < HEAD_BYTES:
            self._sample += line[:HEAD_BYTES] + b"\n"
        return None

    def check(self, name: str, share: float) -> None:
        """Raise DataError if more than this share of the lines of the file `name` is bad."""
        if self.count <= share * self.lines:
            return
        what = f"line {self.first[0]} is not valid UTF-8"
        if self.count > 1:
            numbers = ", ".join(map(str, self.first))
            what = (
                f"{self.count} of {self.lines} lines are not valid UTF-8, the first are "
                f"line {numbers}"
            )
        raise DataError(f"{name}: {what}; {self.advice()}")

    def advice(self) -> str:
        """Return how to repair a file with these lines."""
        if 20 * self._good > self.count:  # by chance, other encodings are UTF-8 in no such number
            return (
                "other lines are in UTF-8, which a conversion of the whole file would damage: "
                "correct these lines or remove them"
            )
        if self._sample.isascii():
            return r"it holds NUL bytes: remove them: tr -d '\000' < in.txt > out.txt"
        return _encoding_advice(bytes(self._sample))


def has_controls(head: bytes) -> bool:
    """Tell whether one byte in a hundred is a control character, as in binary files only."""
    return len(head) - len(head.translate(None, _CONTROLS)) > len(head) // 100 + 2


def _wide_encoding(head: bytes) -> str | None:
    """Return the kind of UTF-16 or UTF-32 of bytes without a byte order mark, or None.

    Every language has line feeds, spaces and digits, and only in the right order of bytes are they
    code units of a zero byte and a small one.
    """
    if b"\0" not in head:
        return None
    common = frozenset(b"\t\n\r \"',.-123456789abcdefghijklmnopqrstuvwxyz")  # U+3000 is no 0
    scores = {}
    for name, width, place in (
        ("UTF-32LE", 4, 0), ("UTF-32BE", 4, 3), ("UTF-16LE", 2, 0), ("UTF-16BE", 2, 1),
    ):  # fmt: skip
        units = [head[begin : begin + width] for begin in range(0, len(head) - width + 1, width)]
        text = head[: len(units) * width]
        scores[name] = sum(
            unit[place] in common and unit.count(0) == width - 1 for unit in units
        ) * width if _decodes(text, name) else 0  # fmt: skip
    best = max(scores, key=scores.__getitem__)
    return best if 100 * scores[best] > len(head) else None


def _decodes(content: bytes, encoding: str) -> bool:
    """Tell whether the bytes, which may end within a character, are text in this encoding."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if len(content) - error.start > 4:
            return False
        text = content[: error.start].decode(encoding)
    return "\0" not in text and not any(
        unicodedata.category(char) in ("Cn", "Co") for char in set(text)
    )


def _conversion(encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 in.txt > out.txt"


# Python's names and iconv's. In the order of preference where several make equally good words.
_LATIN = {
    "cp1252": "CP1252", "iso8859-15": "ISO-8859-15", "cp1250": "CP1250",
    "iso8859-2": "ISO-8859-2", "cp1257": "CP1257", "mac_roman": "MACINTOSH", "cp850": "CP850",
}  # fmt: skip
_OTHERS = {
    "cp1251": "CP1251", "koi8_r": "KOI8-R", "koi8_u": "KOI8-U", "cp866": "CP866",
    "mac_cyrillic": "MAC-CYRILLIC", "cp1253": "CP1253", "cp1255": "CP1255", "cp1256": "CP1256",
    "cp874": "CP874", "gb18030": "GB18030", "big5": "BIG5", "cp932": "CP932", "euc_jp": "EUC-JP",
    "cp949": "CP949",
}  # fmt: skip


def _encoding_advice(sample: bytes) -> str:
    """Suggest the encoding in which the bytes make the most words, and show some of them."""
    best: tuple[float, str, str] | None = None
    for python_name, name in _candidates(sample):
        try:
            text = sample.decode(python_name)
        except UnicodeDecodeError as error:
            if len(sample) - error.start > 4:
                continue
            text = sample[: error.start].decode(python_name)
        capitals, small = (sum(map(test, text)) for test in (str.isupper, str.islower))
        # KOI8-R and CP1251 have the same letters: read as the other, text is in capitals.
        oddities = _share_of_oddities(text) + 0.1 * (capitals > small)
        if best is None or oddities < best[0]:
            best = oddities, name, text
    if best is None or best[0] > 0.2:
        return "its encoding is not known: save it as UTF-8 with the program that wrote it"
    _, name, text = best
    words = dict.fromkeys(re.findall(r"\S*[^\x00-\x7f]\S*", text))
    shown = ", ".join(sorted([word.strip(".,;:!?")[:24] for word in words][:20], key=len)[-3:])
    return (
        f"as {name} it reads {shown}: if that is right, {_conversion(name)}; "
        "otherwise give iconv the encoding that it was saved in"
    )


def _candidates(sample: bytes) -> Iterator[tuple[str, str]]:
    """Yield encodings to try: Latin ones where accented letters stand alone, else the others."""
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    if sum(run for run in runs if run >= 3) * 2 < sum(runs):
        yield from _LATIN.items()
        return
    import charset_normalizer  # counts letters by language, which tells scripts apart

    for match in charset_normalizer.from_bytes(sample, cp_isolation=[*_OTHERS]):
        yield match.encoding, _OTHERS[match.encoding]


def _share_of_oddities(text: str) -> float:
    """Return how many of the characters outside ASCII do not fit into words: 0 to 1."""
    characters = odd = 0
    for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if char.isascii():
            continue
        characters += 1
        if char.isalpha():
            odd += before.islower() and char.isupper()
        elif unicodedata.category(char) in ("Cc", "Cn", "Co", "Sk"):
            odd += 1
        elif unicodedata.category(char)[0] != "M":
            odd += before.isalpha() and after.isalpha() and char not in "\xad·’‐‑"
    return odd / characters if characters else 1.0
