"""Tells texts in a wrong script (`in_wrong_script`) or language (`in_wrong_language`)."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

from distill.errors import InputError

# First word of the Unicode names of a script's letters, by ISO 639 code.
_LATIN = (
    "af az bs ca cs cy da de en es et eu fi fil fr ga gl ha hr ht hu id ig is it jv kin ku lg ln "
    "lt lv mg ms mt nb nl nn no ny om pl pt qu rn ro rw sk sl sn so sq st su sv sw tl tn tr ts uz "
    "ve vi wo xh yo zu"
)
_SCRIPTS: dict[str, frozenset[str]] = {code: frozenset({"LATIN"}) for code in _LATIN.split()} | {
    code: frozenset(scripts.split())
    for codes, scripts in (
        ("ar fa ps ur sd ug", "ARABIC"),
        ("hi mr ne sa mai bho", "DEVANAGARI"),
        ("be bg kk ky mk mn ru tg uk", "CYRILLIC"),
        ("am ti", "ETHIOPIC"),
        ("bn as", "BENGALI"),
        ("zh", "CJK"),
        ("ja", "CJK HIRAGANA KATAKANA"),
        ("ko", "HANGUL CJK"),
        ("el", "GREEK"),
        ("gu", "GUJARATI"),
        ("he yi", "HEBREW"),
        ("hy", "ARMENIAN"),
        ("ka", "GEORGIAN"),
        ("km", "KHMER"),
        ("kn", "KANNADA"),
        ("lo", "LAO"),
        ("ml", "MALAYALAM"),
        ("my", "MYANMAR"),
        ("or", "ORIYA"),
        ("pa", "GURMUKHI"),
        ("si", "SINHALA"),
        ("ta", "TAMIL"),
        ("te", "TELUGU"),
        ("th", "THAI"),
    )
    for code in codes.split()
}
# ISO 15924 codes that a pair may carry (sr_Cyrl).
_BY_SCRIPT_CODE = {
    "Latn": "LATIN",
    "Cyrl": "CYRILLIC",
    "Arab": "ARABIC",
    "Deva": "DEVANAGARI",
    "Hans": "CJK",
    "Hant": "CJK",
    "Beng": "BENGALI",
    "Ethi": "ETHIOPIC",
}
_LEAST_SHARE = 0.5

# Shorter texts carry too little to be identified.
_LEAST_CHARACTERS = 20
# A text is dropped only when its own language is as unlikely as this.
_LEAST_CONFIDENCE = 0.05
# Languages a corpus is likely to be polluted with, beside the pair's own.
_LIKELY_OTHERS = ("en", "fr", "de", "es", "pt", "ar", "ru", "id")


def scripts_of(language: str) -> frozenset[str]:
    """Scripts in which a language is written.

    Raises:
        InputError: the language is not in the table and its code names no script.
    """
    code, _, suffix = language.partition("_")
    if suffix in _BY_SCRIPT_CODE:
        return frozenset({_BY_SCRIPT_CODE[suffix]})
    if code not in _SCRIPTS:
        raise InputError(
            f"check_script: the script of {language!r} is not known",
            "a language of data_shards.identification",
            f"write the script in the pair's code, such as {code}_Latn, or leave the check out",
        )
    return _SCRIPTS[code]


@functools.lru_cache(maxsize=1 << 14)
def _script_of(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def in_wrong_script(text: str, language: str) -> bool:
    """Whether less than half of the letters are of the language's script. No letters: False."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return False
    scripts = scripts_of(language)
    right = sum(_script_of(character) in scripts for character in letters)
    return right < _LEAST_SHARE * len(letters)


def require_identifier(languages: tuple[str, ...]) -> None:
    """Check that the identifier is installed and knows the languages.

    Raises:
        InputError: it is not, or it does not.
    """
    try:
        import lingua
    except ImportError as error:
        raise InputError(
            "language_identifier lingua: not installed",
            "the package lingua-language-detector",
            "pip install lingua-language-detector, or leave the check out",
        ) from error
    known = {language.iso_code_639_1.name.lower() for language in lingua.Language.all()}
    for language in languages:
        if language.partition("_")[0] not in known:
            raise InputError(
                f"language_identifier lingua: {language!r}",
                f"one of its {len(known)} languages",
                "leave the check out for this pair",
            )


@functools.lru_cache(maxsize=8)
def _detector(languages: tuple[str, ...]) -> Any:
    import lingua

    chosen = [getattr(lingua.IsoCode639_1, code.upper()) for code in languages]
    return lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()


def in_wrong_language(text: str, language: str, other: str) -> bool:
    """Whether a text is surely not in its language, by lingua.

    Args:
        text: a sentence; one of fewer than 20 characters is never judged.
        language: the language it should be in.
        other: the other language of its pair, in which untranslated lines are.
    """
    if len(text) < _LEAST_CHARACTERS:
        return False
    import lingua

    code, other_code = language.partition("_")[0], other.partition("_")[0]
    candidates = tuple(sorted({code, other_code, *_LIKELY_OTHERS}))
    expected = lingua.Language.from_iso_code_639_1(getattr(lingua.IsoCode639_1, code.upper()))
    confidence = _detector(candidates).compute_language_confidence(text, expected)
    return float(confidence) < _LEAST_CONFIDENCE
