"""Whether a reworded sentence says what the original says, and nothing else.

The check knows no grammar and needs no model.  It knows a closed vocabulary: the words of the original, a stated list
of plain synonyms, and words such as ``the`` and ``of`` that carry no fact.  A word outside it rejects the sentence, so
that another language, a name, an organ, advice or an invented outcome cannot pass.  Facts are held in place as well:
content words and numbers are the same ones, and each number, negation and restriction stands before the same word as
in the original, so that numbers cannot be swapped and a "not" cannot move.  A sentence rejected without need costs
nothing, because the original is shown instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["SYNONYMS", "objection"]

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("tumour", "tumor", "lump"),
    ("page", "sheet"),
    ("explains", "describes"),
    ("plain", "simple", "everyday"),
    ("record", "file"),
    ("says", "states"),
    ("old", "aged"),
    ("found", "discovered", "detected"),
    ("cm", "centimetre", "centimeter"),
    ("widest", "broadest"),
    ("fast", "quickly", "rapidly"),
    ("seem", "appear"),
    ("program", "software"),
    ("looked", "examined"),
    ("counted", "tallied"),
    ("dividing", "splitting"),
    ("like", "similar"),
    ("unlike", "different"),
    ("sure", "certain"),
    ("answer", "reply"),
    ("learnt", "learned"),
    ("measured", "assessed"),
    ("scan", "image"),
    ("results", "findings"),
    ("numbers", "figures"),
    ("even", "uniform"),
    ("missing", "absent", "lacking"),
    ("details", "particulars"),
    ("typical", "usual"),
    ("instead", "rather"),
    ("people", "persons"),
    ("about", "around", "roughly", "approximately"),
    ("alive", "living"),
    ("tell", "foresee"),
    ("happen", "occur"),
    ("doctors", "physicians"),
    ("starts", "begins"),
    ("often", "frequently"),
    ("near", "close"),
    ("small", "little"),
    ("site", "place", "location"),
    ("score", "mark"),
    ("make", "give"),
    ("gave", "offered"),
)
"""Plain synonyms.  The forms of a line may replace each other; singular and plural count as one form."""

_FREE = frozenset({
    "a", "an", "the", "of", "to", "in", "on", "at", "for", "from", "with", "by", "as", "that", "which", "who",
    "whose", "and", "so", "it", "its", "this", "these", "those", "there", "they", "them", "their", "be", "been",
    "being", "out",
})  # fmt: skip
"""Words that carry no fact of their own."""
_PRESENT = frozenset(["is", "are", "has", "have", "do", "does"])
_PAST = frozenset(["was", "were", "had", "did"])
_BINDING = frozenset({
    "not", "no", "never", "nobody", "none", "nothing", "neither", "nor", "without", "cannot", "unlike", "different",
    "only", "about", "around", "roughly", "approximately", "most", "more", "less", "least", "fewer", "higher",
    "lower", "middle", "other", "some", "any", "all", "every", "each", "one", "enough", "seem", "appear", "before",
    "after", "until", "since", "within", "over", "under",
})  # fmt: skip
"""Negations, restrictions and comparisons: each must stand before the same word as in the original."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PUNCTUATION = frozenset(" .,")
_ALIKE = {form: group[0] for group in SYNONYMS for form in group}
_LONGEST = 2.0


def objection(reworded: str, original: str) -> str:
    """Return why a reworded sentence is rejected, or an empty text if it says the same.

    Parameters
    ----------
    reworded
        One sentence.
    original
        The sentence it is to replace.

    Examples
    --------
    >>> objection("Your lump was 5 centimetres across at its widest.", "The tumour was 5 cm across at its widest.")
    "the word 'your' is not in the sentence"
    >>> objection("At its widest the lump was 5 centimetres across.", "The tumour was 5 cm across at its widest.")
    ''
    """
    text = reworded.strip()
    if not text or len(text) > _LONGEST * len(original) + 20:
        return "it is empty or more than twice as long"
    symbols = set(_TOKEN.sub("", text)) - _PUNCTUATION - set(_TOKEN.sub("", original))
    if symbols:
        return f"it contains the character {min(symbols)!r}"
    if not text.endswith(".") or _ends(text) != _ends(original):
        return "it is not one statement"
    new, old = _tokens(text), _tokens(original)
    known = set(old)
    for token in new:
        if token not in known and token not in _FREE | _PRESENT | _PAST:
            kind = "number" if _NUMBER.fullmatch(token) else "word"
            return f"the {kind} '{token}' is not in the sentence"
    if _tense(new) - _tense(old) and _tense(old):
        return "it speaks of another time"
    return _moved(_content(new), _content(old))


def _moved(new: Sequence[str], old: Sequence[str]) -> str:
    """Return which content is lost, repeated or moved."""
    lost, repeated = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if lost:
        return f"'{min(lost)}' is left out"
    if repeated:
        return f"'{min(repeated)}' is repeated"
    bound_new, bound_old = _bound(new), _bound(old)
    if bound_new != bound_old:
        word, following = min((bound_old - bound_new) or (bound_new - bound_old))
        return f"'{word}' no longer stands before '{following}'" if following else f"'{word}' has moved"
    return ""


def _bound(content: Sequence[str]) -> Counter[tuple[str, str]]:
    pairs = pairwise([*content, ""])
    return Counter((a, b) for a, b in pairs if a in _BINDING or _NUMBER.fullmatch(a))


def _content(tokens: Sequence[str]) -> list[str]:
    return [t for t in tokens if t not in _FREE | _PRESENT | _PAST]


def _tense(tokens: Sequence[str]) -> set[str]:
    return {name for name, words in (("present", _PRESENT), ("past", _PAST)) if words & set(tokens)}


def _ends(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def _tokens(text: str) -> list[str]:
    """Split into words and numbers, each in its standard form."""
    return [_standard(found) for found in _TOKEN.findall(text)]


def _standard(token: str) -> str:
    if _NUMBER.fullmatch(token):
        return token.rstrip(".,")
    word = token.lower().replace("’", "'").removesuffix("'s").removesuffix("'")
    if word in _FREE or word in _PRESENT or word in _PAST:
        return word
    if word in _ALIKE:
        return _ALIKE[word]
    singular = word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word
    for form in (singular, f"{word}s"):
        if form in _ALIKE:
            return _ALIKE[form]
    return singular
