"""Function words by language: they carry the grammar of a text query rather than its meaning.

A query for `a photo of a dog` is a query for dogs. The lists contain only closed classes (articles,
prepositions, pronouns, auxiliaries), so that no word for something visible is lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from seqvis.vectors.store import WordVectors

_COMMON = 300  # first words of a store, in which a language's function words stand


@dataclass(frozen=True)
class FunctionWords:
    """The function words of one language, in lower case; `d'` and `'s` are written together."""

    words: frozenset[str]
    negations: frozenset[str]
    """What they stand before is subtracted."""
    scope_ends: frozenset[str]
    """Words that end what a negation covers: `no people in the street` is a street."""
    contrasts: frozenset[str]
    """Words that begin a new term, as a comma does."""
    carriers: tuple[tuple[frozenset[str], frozenset[str]], ...]
    """Words that say nothing before certain others: `photo` before `of`, `show` before `me`."""

    def is_negation(self, word: str) -> bool:
        return word in self.negations or word.endswith("n't")

    def meaning(self, words: Iterable[str]) -> list[str]:
        """The words that are left without function words, carriers, elisions and possessives."""
        shown = list(words)
        lower = [word.lower() for word in shown]
        kept = []
        for place, word in enumerate(shown):
            following = self._begin(lower[place + 1]) if place + 1 < len(shown) else ""
            carries = any(
                lower[place] in before and following in joint for before, joint in self.carriers
            )
            stem = self._without_elision(word)
            if stem and not carries and not self._says_nothing(stem.lower()):
                kept.append(stem)
        return kept

    def _says_nothing(self, word: str) -> bool:
        return word in self.words or word in self.contrasts or self.is_negation(word)

    def _begin(self, word: str) -> str:
        head, apostrophe, _ = word.partition("'")
        return head + apostrophe if head + apostrophe in self.words else word

    def _without_elision(self, word: str) -> str:
        head, apostrophe, rest = word.partition("'")
        if apostrophe and (head + "'").lower() in self.words:
            word = rest
        stem, apostrophe, ending = word.rpartition("'")
        return stem if apostrophe and ("'" + ending).lower() in self.words else word


def function_words_of(vectors: WordVectors) -> FunctionWords:
    """The list of the language that a store is in, by its most frequent words; else English."""
    common = set(islice(vectors.words(), _COMMON))
    return max(LANGUAGES, key=lambda one: len(one.words & common))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENGLISH = FunctionWords(
    _set(
        """a an the this that these those some any each every all both either such another other
        i me my you your yours he him his she her hers it its we our ours they them their theirs
        who whom whose which what there here something anything everything someone anyone everyone
        somebody anybody everybody one's where when why how if
        of in on at by for from to with within into onto over under above below beneath behind
        beside besides between beyond near next about across after against along among amongst
        around as before during inside outside like off out through toward towards upon up via
        and or than then so because although though while whether
        am is are was were be been being do does did doing has have had having could will would
        shall should may might must very just also too only really please
        showing containing depicting 's 're 've 'll 'd 'm"""
    ),
    _set("no not without except excluding minus neither nor never instead rather cannot"),
    _set(
        """in on at under over above below beneath behind beside between beyond near next across
        against along among around before after during inside outside through towards while"""
    ),
    _set("but"),
    (
        (
            _set("photo photos photograph photographs picture pictures image images pic pics"),
            _set("of with showing containing depicting where that"),
        ),
        (_set("show find give"), _set("me us")),
        (_set("search searching look looking"), _set("for")),
    ),
)

GERMAN = FunctionWords(
    _set(
        """der die das den dem des ein eine einen einem einer eines dieser diese dieses diesen
        diesem jeder jede jedes alle ich mich mir mein meine du dein deine er ihn ihm sein seine
        sie ihr ihre ihrer ihren es wir uns unser unsere wer wen wem was wo wann wie warum man
        von vom aus mit bei beim zu zum zur in im ins an am auf für über unter vor hinter neben
        zwischen nach durch gegen um bis seit während und oder als ob wenn weil dass daß
        bin bist ist sind war waren sei wird werden wurde wurden hat haben hatte kann soll
        auch nur sehr etwas jemand bitte"""
    ),
    _set("nicht kein keine keinen keinem keiner keines ohne außer weder noch"),
    _set("in im ins an am auf über unter vor hinter neben zwischen während"),
    _set("aber sondern"),
    (
        (
            _set("foto fotos photo bild bilder aufnahme aufnahmen"),
            _set("von vom mit eines einer des der"),
        ),
        (_set("zeig zeige finde gib"), _set("mir")),
    ),
)

FRENCH = FunctionWords(
    _set(
        """le la les l' un une des du de d' au aux ce cet cette ces c' mon ma mes ton ta tes son sa
        ses notre nos votre vos leur leurs je j' tu il elle on nous vous ils elles me m' te t' se
        s' lui y en qui que qu' quoi dont où quel quelle quels quelles tout toute tous toutes
        à dans sur sous avec par pour vers chez entre devant derrière près contre pendant depuis
        et ou si comme quand est sont était étaient a ont avait
        ne n' aussi très plus quelque quelques quelqu' chaque montrant"""
    ),
    _set("pas sans sauf ni aucun aucune jamais excepté"),
    _set("dans sur sous devant derrière près entre pendant"),
    _set("mais"),
    (
        (
            _set("photo photos photographie photographies image images"),
            _set("de d' du des avec montrant"),
        ),
        (_set("montre montrez trouve trouvez"), _set("moi")),
    ),
)

SPANISH = FunctionWords(
    _set(
        """el la los las lo un una unos unas este esta estos estas ese esa esos esas aquel aquella
        mi mis tu tus su sus nuestro nuestra yo él ella nosotros ellos ellas me te se le les
        quien quién que qué cual cuál donde dónde cuando cómo todo toda todos todas algo alguien
        algún alguna algunos algunas cada otro otra otros otras
        de del a al en con por para bajo entre hacia hasta desde durante tras
        y e o u si como porque es son era eran ser está están estaba fue ha han hay muy más también
        mostrando"""
    ),
    _set("no sin ni excepto salvo ningún ninguna ninguno nunca"),
    _set("en sobre bajo entre durante tras"),
    _set("pero sino"),
    (
        (_set("foto fotos fotografía imagen imágenes"), _set("de del con mostrando")),
        (_set("busca buscar encuentra"), _set("a un una")),
    ),
)

ITALIAN = FunctionWords(
    _set(
        """il lo la i gli le l' un uno una un' questo questa questi queste quest' quello quella
        quelli quelle mio mia tuo tua suo sua nostro vostro loro io tu lui lei noi voi mi ti si ci
        vi ne chi che cui cosa dove quando come quale quali tutto tutta tutti tutte ogni qualche
        di d' del dello della dell' dei degli delle a al allo alla all' ai agli alle da dal dalla
        dall' dai in nel nello nella nell' nei negli nelle con su sul sullo sulla sull' sui per
        tra fra sotto sopra durante e ed o se perché è sono era erano essere stato ha hanno c'
        molto più anche"""
    ),
    _set("non senza tranne eccetto né nessun nessuna nessuno mai"),
    _set("in nel nello nella nell' nei su sul sulla sull' sui sotto sopra tra fra durante"),
    _set("ma"),
    ((_set("foto fotografia immagine immagini"), _set("di d' del della dell' con")),),
)

LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN)
