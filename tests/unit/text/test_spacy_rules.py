"""spaCy's tokenizers as they are loaded here against spaCy's own."""

import json
import re
import subprocess
import sys

import pytest

from seqvis.samples.questions import generate_pairs
from seqvis.text.spacy_languages import share_endings

# Heads of spaCy's French alternatives, and what they are joined with.
PREFIXES = ["anti-", "auto‑", "chef-d’", "contre-", "Demi-", "entr'", "faux-", "grand's", "MI-"]
PREFIXES += ["peut-", "pet-en-l'", "pro", "r’", "saut-de-", "Saint-", "sous–", "villeneuve-", "é-"]
PREFIXES += ["vice-", "vieux-", "zig-zag", "anti-z’", "vie-", "bourg-", "trou—"]


# Of a process that has no French yet.
LONG_EXPRESSIONS = """
import json
from seqvis.text import spacy_languages

seen, plain = [], spacy_languages.share_endings
spacy_languages.share_endings = lambda pattern: seen.append(pattern) or plain(pattern)
spacy_languages.spacy_tokenizer("fr")
print(json.dumps(seen))
"""


def python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words() -> list[str]:
    plain = {word for pair in generate_pairs(2000, seed=2) for word in pair[0].split()}
    plain |= {"ski", "l'air", "l’Isle-d'Abeau", "Été", "x2", "déjeunera", "ÆGIS", ""}
    return sorted(plain) + [head + word for head in PREFIXES for word in sorted(plain)]


@pytest.mark.slow
def test_the_shortened_expression_matches_the_same_words() -> None:
    (pattern,) = json.loads(python(LONG_EXPRESSIONS))
    shortened = share_endings(pattern)
    assert len(shortened) < len(pattern) / 10
    plain, quick = re.compile(pattern), re.compile(shortened)
    matched = [word for word in words() if plain.match(word)]
    assert matched == [word for word in words() if quick.match(word)]
    assert len(matched) > 500


@pytest.mark.parametrize("pattern", ["(?:a)|(?:b)", "(?iu)a|b", "", "(?iu)(?:a|b)|(?:c[x]+$)"])
def test_expressions_of_another_form_match_what_they_matched(pattern: str) -> None:
    for word in ("a", "b", "c", "cx", "cy", "ax", "A"):
        assert bool(re.match(share_endings(pattern), word)) == bool(re.match(pattern, word))


def test_alternatives_keep_their_ending() -> None:
    large = "[" + "xyz" * 101 + "]+"
    pattern = f"(?iu)(?:^a-{large}$)|(?:^b(?:c|d)-{large}$)|(?:^e|f-{large}$)|(?:g-)"
    shortened = share_endings(pattern)
    assert shortened.count(large) == 2  # `e|f` is none that may stand before an ending
    for word in ("a-x", "b-x", "bc-y", "bd-", "BD-Z", "e", "f-x", "g-", "g", "a-", "h-x"):
        assert bool(re.match(shortened, word)) == bool(re.match(pattern, word)), word


@pytest.mark.slow
def test_splitting_words_loads_no_pytorch_and_leaves_it_to_others() -> None:
    script = (
        "import sys\n"
        "from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer\n"
        "tokens = load_tokenizer(TokenizerSettings(language='fr')).tokenize(\"Qu'est-ce ?\")\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "print(tokens, torch.ones(2).sum().item())\n"
    )
    assert python(script) == "[\"qu'\", 'est', '-ce', '?'] 2.0\n"
