"""The model card of an artifact, made from its manifest: the README.md that the hub shows."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from seqvis.artifacts import Artifact

NEEDS = {"devise": "vectors", "collection": "model"}
"""Kinds that do not work alone, and the entry of their configuration that says with what."""

_SCORES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "hit@1": "hit@1",
    "hit@5": "hit@5",
    "hit@10": "hit@10",
    "accuracy": "accuracy",
    "perplexity": "perplexity",
    "loss": "loss",
}
"""The metrics that a card shows, and how it calls them; the others are in metrics.csv."""
_RATED = ("bleu", "chrf", "hit@1", "hit@5", "hit@10", "accuracy")  # that the hub lists
_TASKS = {"translator": "translation", "devise": "zero-shot-image-classification"}
_SENTENCES = {
    "de": "Wo ist die Katze?",
    "en": "Where is the cat?",
    "es": "¿Dónde está el gato?",
    "fr": "Où est le chat ?",
    "it": "Dov'è il gatto?",
    "nl": "Waar is de kat?",
    "pt": "Onde está o gato?",
}
"""What a card's example translates, by the source language; of others the reader fills it in."""


def model_card(artifact: Artifact, name: str, license_name: str, facts: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        name: of the repository, ORGANISATION/REPOSITORY.
        license_name: as the hub calls it.
        facts: what the manifest does not say.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kind, config = artifact.kind, _without_places(artifact.config)
    metrics = {name: value for name, value in artifact.metrics.items() if name in _SCORES}
    data = str(config.get("corpus") or config.get("features") or "unknown")
    task = _TASKS.get(kind)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=f"validation part of {data}",
            metric_type=metric,
            metric_name=_SCORES[metric],
            metric_value=round(metrics[metric], 4),
        )
        for metric in _RATED
        if task and metric in metrics
    ]
    front = ModelCardData(
        language=_languages(config),
        license=license_name,
        library_name="seqvis",
        pipeline_tag=task,
        tags=["seqvis", *([kind] if kind != "translator" else ["gru", "seq2seq"])],
        metrics=[result.metric_type for result in results] or None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    data_lines = _data(kind, config, facts)
    sections = [
        f"---\n{front.to_yaml()}\n---\n\n# {name.rpartition('/')[2]}\n\n{_what(kind, config)}",
        f"## How to use it\n\n{_use(kind, name, config)}",
        f"## Data\n\n{data_lines}" if data_lines else "",
        f"## Scores\n\n{_scores(artifact, metrics)}" if metrics else "",
        f"## Settings\n\n```yaml\n{_yaml(config)}```" if config else "",
        f"## Limits\n\n{_limits(kind)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _yaml(config: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _without_places(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are given, of paths and URIs only the last part."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            kept[name] = _without_places(value)
        elif isinstance(value, str) and "/" in value and not value.startswith("hf://"):
            kept[name] = PurePosixPath(value.partition("?")[0]).name
        elif isinstance(value, (tuple, list)):
            kept[name] = list(value)
        elif value is not None:
            kept[name] = value
    kept.pop("out", None)
    return kept


def _languages(config: Mapping[str, Any]) -> list[str] | None:
    codes = (config.get(f"{side}_lang") for side in ("source", "target"))
    return [str(code).partition("-")[0] for code in codes if code] or None


def _what(kind: str, config: Mapping[str, Any]) -> str:
    if kind == "translator":
        attention = " with attention" if config["model"].get("attention") else ""
        return (
            f"Translates sentences from `{config['source_lang']}` to `{config['target_lang']}`: an "
            f"encoder and a decoder of {str(config['model'].get('cell', 'gru')).upper()}s"
            f"{attention} (variant `{config['variant']}`), trained by seqvis."
        )
    if kind == "devise":
        backbone = config["backbone"]["name"]
        return (
            f"Projects pictures, as `{backbone}` sees them, into the space of word vectors (method "
            f"`{config['method']}`), so that words find pictures, words among them that no picture "
            f"was labelled with. Trained by seqvis."
        )
    if kind == "collection":
        return "Pictures as points among words, which words and pictures search, made by seqvis."
    return f"An artifact of seqvis, of the kind `{kind}`."


def _use(kind: str, name: str, config: Mapping[str, Any]) -> str:
    needs = str(config.get(NEEDS.get(kind, ""), ""))
    if kind == "translator":
        python = f'''from seqvis import Translator

translator = Translator.from_pretrained("{name}")
print(translator.translate("{_sentence(config)}").text)
'''
        command = f'seqvis translate --model hf://{name} "{_sentence(config)}"'
    elif kind == "devise":
        python = f'''from seqvis import DeviseModel

model = DeviseModel.from_pretrained("{name}")
print(model.space.names[:10])
'''
        command = (
            f"seqvis build-index --model hf://{name} --features FEATURES --out COLLECTION\n"
            f"seqvis search --collection COLLECTION --text WORD"
            f"{_elsewhere('--vectors', needs)}"
        )
    elif kind == "collection":
        python = f'''from seqvis import Collection

with Collection.from_pretrained("{name}") as collection:
    print(len(collection), collection.dimension)
'''
        command = (
            f"seqvis search --collection hf://{name} --text WORD"
            f"{_elsewhere('--model', needs)}\n"
            f"seqvis collection --restore hf://{name} --collection COLLECTION"
        )
    else:
        return f"Give `hf://{name}` to the jobs of seqvis where they take what is of this kind."
    install = "pip install 'seqvis[hub]'"
    return f"```sh\n{install}\n```\n\n```python\n{python}```\n\n```sh\n{command}\n```" + (
        f"\n\n{_needed(kind, needs)}" if needs else ""
    )


def _elsewhere(flag: str, needs: str) -> str:
    return "" if needs.startswith("hf://") else f" {flag} {flag.strip('-').upper()}"


def _needed(kind: str, needs: str) -> str:
    what = {"devise": "word vectors", "collection": "model"}[kind]
    if needs.startswith("hf://"):
        return f"The {what} that it works with, `{needs}`, will be loaded as well."
    return (
        f"**It does not work alone.** Its {what}, `{needs}`, must be had elsewhere; others than "
        f"those that it was made with are refused."
    )


def _sentence(config: Mapping[str, Any]) -> str:
    return _SENTENCES.get(str(config["source_lang"]).partition("-")[0], "…")


def _data(kind: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    lines = []
    if "corpus" in config:
        pairs = config.get("train_pairs")
        count = f"{pairs:,} pairs of sentences of " if pairs else ""
        lines.append(f"{count}the corpus `{config['corpus']}`")
        if config.get("valid_pairs"):
            lines.append(f"{config['valid_pairs']:,} further pairs to validate with")
    if "features" in config:
        lines.append(f"pictures of `{config['features']}`")
    if "backbone" in config:
        weights = config["backbone"]
        lines.append(f"the backbone `{weights['name']}` with the weights `{weights['weights']}`")
    lines += [f"{name}: {value}" for name, value in facts.items()]
    lines += [
        f"{name.replace('_', ' ')}: `{value}`"
        for name, value in config.items()
        if name.endswith("_fingerprint")
    ]
    return "\n".join(f"- {line}" for line in lines)


def _scores(artifact: Artifact, metrics: Mapping[str, float]) -> str:
    rows = [f"| {_SCORES[name]} | {metrics[name]:.4g} |" for name in _SCORES if name in metrics]
    table = "\n".join(["| metric | value |", "| --- | --- |", *rows])
    epoch = artifact.metrics.get("epoch")
    said = ["Of the validation part" + (f", after the best epoch, {epoch}." if epoch else ".")]
    if "signature" in artifact.metrics:
        said.append(f"BLEU and chrF by sacreBLEU: `{artifact.metrics['signature']}`.")
    parts = [table, " ".join(said)]
    if "curves.png" in artifact.files:
        parts.append("![Loss and scores over the epochs](curves.png)")
    return "\n\n".join(parts)


def _limits(kind: str) -> str:
    limits = {
        "translator": (
            "It translates sentence by sentence, and learnt only from the corpus above: text of "
            "another kind is translated worse than the scores say. Words that it does not know are "
            "copied, or replaced by others. It may reproduce what is wrong or unfair in its corpus."
        ),
        "devise": (
            "It is as good as its backbone, labels and word vectors, and has their prejudices. "
            "Words far from all labels find little. It was not made to recognise people."
        ),
        "collection": (
            "It holds thumbnails and metadata of its pictures, whose rights stay with their "
            "owners. A search finds the nearest pictures, also where none fits."
        ),
    }
    return limits.get(kind, "It is what its data made it.")
