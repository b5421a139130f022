"""The data sets of lesson 11 and similar ones: where they are published, and how to unpack them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_FASTTEXT = "https://dl.fbaipublicfiles.com/fasttext/vectors-wiki"


@dataclass(frozen=True)
class RemoteFile:
    """A file at a public address, and where its contents go in the output directory.

    `members` maps names inside the archive to names in the output directory; without it, a "tar"
    is unpacked whole, less its first folder, and a plain file keeps its name.
    """

    url: str
    form: Literal["plain", "gz", "zip", "tar"] = "plain"
    members: Mapping[str, str] = field(default_factory=dict)
    # giga-fren and fastText are published without one; those files are checked by the checksums
    # inside their archives.
    checksum: str | None = None  # "md5:..." or "sha256:...", as published
    size: int | None = None  # bytes, as published

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A data set: its files and their publisher."""

    files: tuple[RemoteFile, ...]
    origin: str  # shown to the user: who publishes it, under which terms, how big it is


def _multi30k(split: str, language: str, md5: str) -> RemoteFile:
    name = f"{split}.{language}"
    return RemoteFile(f"{_MULTI30K}/{name}.gz", "gz", {"": name}, f"md5:{md5}")


def _fasttext(language: str) -> Dataset:
    names = {name: name for name in (f"wiki.{language}.bin", f"wiki.{language}.vec")}
    return Dataset(
        (RemoteFile(f"{_FASTTEXT}/wiki.{language}.zip", "zip", names),),
        "fastText on Wikipedia, CC BY-SA 3.0; about 10 GB to fetch (en), 16 GB unpacked",
    )


DATASETS: Mapping[str, Dataset] = {
    "giga-fren": Dataset(
        (
            RemoteFile(
                "http://www.statmt.org/wmt10/training-giga-fren.tar",
                "tar",
                {
                    "giga-fren.release2.fixed.fr.gz": "train.fr",
                    "giga-fren.release2.fixed.en.gz": "train.en",
                },
                size=2595102720,
            ),
        ),
        "WMT 2010, 22.5 million pairs of web sentences; 2.6 GB to fetch, 7 GB unpacked",
    ),
    "tatoeba": Dataset(
        (
            RemoteFile(
                "https://object.pouta.csc.fi/OPUS-Tatoeba/v2023-04-12/moses/en-fr.txt.zip",
                "zip",
                {"Tatoeba.en-fr.fr": "train.fr", "Tatoeba.en-fr.en": "train.en"},
            ),
        ),
        "Tatoeba by way of OPUS, short sentences, CC BY 2.0 FR; about 10 MB",
    ),
    "multi30k": Dataset(
        (
            _multi30k("train", "fr", "6cb767741dcad3931f966fefbc05203f"),
            _multi30k("train", "en", "0065d13af80720a55ca8153d126e6627"),
            _multi30k("val", "fr", "93fc564584b7e5ba410c761ea5a1c682"),
            _multi30k("val", "en", "2b69aa9253948ac9f67e94917272dd40"),
        ),
        "Multi30k task 1, 29,000 image captions, for research; 2 MB",
    ),
    "fasttext-wiki-en": _fasttext("en"),
    "fasttext-wiki-fr": _fasttext("fr"),
    "imagenet-classes": Dataset(
        (
            RemoteFile("http://files.fast.ai/models/imagenet_class_index.json"),
            RemoteFile("http://files.fast.ai/data/classids.txt"),
        ),
        "ImageNet's 1,000 classes and WordNet's nouns, as lesson 11 has them; 2 MB",
    ),
    "imagenette": Dataset(
        (
            RemoteFile(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
                "tar",
                checksum="sha256:5020a9130cea0348272823cb12d2db7e981c6f2afa3dce71ccd5b8013005c55e",
                size=341553947,
            ),
        ),
        "ten easy classes of ImageNet at 320 pixels (train/, val/), for research; 342 MB",
    ),
}
