"""seqvis: GRU translators and visual-semantic search, trained, tuned and served on Ray.

The names below are what most programs need. They are loaded when they are first used, so that
`import seqvis` takes a moment and loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqvis.collection.collection import Collection
    from seqvis.devise.model import DeviseModel
    from seqvis.errors import SeqvisError
    from seqvis.library.pictures import build_index, build_vectors, embed_images, train_devise
    from seqvis.library.translators import prepare_corpus, train_translator
    from seqvis.search.engine import SearchEngine
    from seqvis.translation.translator import Translator

__version__ = "0.1.0"

_PLACES = {
    "Collection": ("seqvis.collection.collection", "Collection"),
    "DeviseModel": ("seqvis.devise.model", "DeviseModel"),
    "SearchEngine": ("seqvis.search.engine", "SearchEngine"),
    "SeqvisError": ("seqvis.errors", "SeqvisError"),
    "Translator": ("seqvis.translation.translator", "Translator"),
    "build_index": ("seqvis.library.pictures", "build_index"),
    "build_vectors": ("seqvis.library.pictures", "build_vectors"),
    "embed_images": ("seqvis.library.pictures", "embed_images"),
    "prepare_corpus": ("seqvis.library.translators", "prepare_corpus"),
    "train_devise": ("seqvis.library.pictures", "train_devise"),
    "train_translator": ("seqvis.library.translators", "train_translator"),
}

__all__ = [
    "Collection",
    "DeviseModel",
    "SearchEngine",
    "SeqvisError",
    "Translator",
    "build_index",
    "build_vectors",
    "embed_images",
    "prepare_corpus",
    "train_devise",
    "train_translator",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
