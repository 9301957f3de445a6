"""
Tell whether a chain speaks of the prompt that asked for it: of the hint, or of its being wrong on purpose.

A student has no hint, so a chain that leans on one teaches it to claim what it cannot know. Words alone do not tell:
"it would be a mistake to add" and "option A is an incorrect answer" are ordinary reasoning, and people in questions
give hints and make mistakes. So each rule has the words of a hint or of a request for a wrong response in the place
where they speak of it.
"""

import re


# The start of a sentence.
_START = r"(?:\A|(?<=[.!?:)\]\"])\s{1,8}|\n|\()\W{0,8}"
_WRONG = r"(?:wrong|incorrect|erroneous|mistaken|flawed|faulty)"
_GIVEN = r"(?:given|provided|stated|supplied|known|expected|target|reference|ground[- ]truth)"
_OTHERS = r"(?:common|typical|frequent|easy|classic|usual|possible|potential)"

# For each subject, the word that must not be in the question, and the rules. If a question is about hints or mistakes
# itself, a chain may be too.
_RULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hint": (
        r"\bhint|提示|ヒント|힌트|Hinweis|indice|pista|dica|подсказк|suggerimento",
        (
            # The hint that the prompt gives. "A hint of lemon", "he takes the hint" and "the hint here is the verb"
            # speak of others.
            r"\b(?<!takes )(?<!took )(?<!take )(?<!taking )(?<!gets )(?<!get )(?<!got )(?<!drops )(?<!dropped )"
            r"(?:the|this|that|your|our|my)\s+(?:(?:given|provided|above|correct)\s+)?hints?\b"
            r"(?!\s+(?:of\b|here\b|is (?:the (?:word|verb|phrase|fact)|in|hidden)\b|lies\b|to (?:the|him|her"
            r"|them)\b))",
            r"\b(?:given|provided)\s+hints?\b",
            r"\b(?:by|with|from|using|per|given|following|see|as)\s+(?:a |the |this )?hints?\b(?!\s+of\b)",
            r"\b(?:as|was|were|is|been|answer)\s+hinted\b(?!\s+at by)|\bhinted\s+(?:correct\s+)?answer\b",
            r"\A\W*(?:H|Hint)\W{0,4}:|\n\W{0,8}Hint\W{0,4}:|\bline\s+(?:that\s+)?(?:starts|starting|begins"
            r"|beginning)\s+with\s+\W?H\b",
            r"(?:根据|按照|依据|由|从|参考)(?:该|此|所给的?|给出的|题目的?)?提示|提示(?:中|里)?(?:说|给出|告诉|指出|表明|是)",
            r"ヒント(?:に|で|から|は|が|の通り|によ)|힌트(?:에|로|는|가|를|를)",
            r"\b(?:laut|nach|gemäß|aus|mit)\s+(?:dem\s+)?Hinweis\b|\bder\s+Hinweis\s+(?:sagt|besagt|nennt|gibt)",
            r"\b(?:selon|d['’]après|avec|suivant)\s+l['’]indice\b|\bl['’]indice\s+(?:dit|indique|donne|précise)",
            r"\b(?:según|con|siguiendo|de)\s+la\s+pista\b|\bla\s+pista\s+(?:dice|indica|da|señala)",
            r"\b(?:de acordo com|segundo|conforme|pela)\s+(?:a\s+)?dica\b|\ba\s+dica\s+(?:diz|indica|dá)",
            r"\bsecondo\s+(?:il\s+suggerimento|l['’]indizio)\b|(?:согласно|по|из|используя)\s+подсказк",
        ),
    ),
    "given answer": (
        rf"\b(?:the\s+{_GIVEN}\s+(?:correct\s+|right\s+)?answer|the answer (?:was|is) (?:given|provided|known))",
        (
            # "Since the correct answer must be even" concludes, "since the correct answer is 5" knows.
            r"\b(?:given|knowing|since|because|as|know|knew|told|informed)\s+(?:us\s+)?(?:that\s+)?the\s+"
            r"(?:correct|right|actual|true)\s+(?:final\s+)?answer\b"
            r"(?!\s+(?:must|should|has|can|could|cannot|will|would|needs?|choice|is\s+(?:an?|one|among|not"
            r"|never|always)"
            r"|to the)\b)",
            r"\b(?:told|informed|given)\s+(?:that\s+)?the\s+(?:final\s+)?answer\s+(?:is|was|to be)\b(?!\s+(?:in"
            r"|an?)\b)",
            r"\balready\s+know\s+(?:that\s+)?the\s+(?:final\s+)?answer\s+(?:is|to be)\b(?!\s+(?:in|an?|not|one)\b)",
            r"\bthe\s+(?:correct|right)\s+answer,\s[^,\n]{1,40},\s+(?:is|was|has been)\s+(?:given|provided"
            r"|stated|known|told)\b",
            rf"\bthe\s+{_GIVEN}\s+(?:correct\s+|right\s+|final\s+)?answer\b(?!\s+(?:choice|option|key|format)s?\b)",
            r"\bthe\s+(?:correct\s+|right\s+)?answer\s+(?:is|was|has been|we were)\s+(?:already\s+)?"
            r"(?:given|provided|stated|supplied|known|told)(?:\s+(?:as|to be|to us|above|beforehand|in advance"
            r"|in the (?:hint|prompt|instructions?))\b|\s*[,:(]\s*\S)",
            r"\b(?:match(?:es|ing)?|agree(?:s|ing)?\s+with|consistent\s+with|in\s+(?:line|agreement)\s+with"
            r"|compared?\s+(?:to|with)|work(?:s|ing)?\s+backwards?\s+from|justif(?:y|ies|ying)|confirm(?:s|ing)?)\s+"
            r"the\s+(?:correct|right|true|actual)\s+(?:final\s+)?answer\b(?!\s+(?:choice|option)s?\b)",
            r"\bwork(?:s|ing)?\s+backwards?\s+from\s+the\s+answer\b",
            r"\bas\s+the\s+(?:correct|right)\s+answer\s+(?:says|states|indicates|suggests|shows|tells)",
            rf"{_START}(?:in order )?to\s+(?:reach|arrive at|get|obtain|find|justify)\s+the\s+(?:correct|right)\s+"
            r"answer\s+(?:of|which is)\b",
            # The line of the hint, repeated before the steps.
            r"\A\W*The\s+(?:correct|right)\s+answer\s+(?:is|:)[^\n]{1,80}?[.!:\n]\s*\S+\s+\S+\s+\S+",
            r"\A(?:正确答案(?:是|为|:|：)|正解は)[^\n。]{1,40}[。\n]\s*\S",
            r"(?:已知|既然|因为|知道)(?:了)?正确(?:的)?答案(?:是|为)|(?:给定|已给|提供)的(?:正确)?答案",
        ),
    ),
    "response": (
        r"\b(?:wrong|right|correct|incorrect)\s+response\b",
        (
            r"\b(?:wrong|right|correct|incorrect)\s+response\b",
            rf"\b(?:here(?:['’]s| is)|below is|following is|write|produce)\s+(?:an?|the|one|my)\s+"
            rf"(?:\w+[\s,-]+(?:but\s+)?){{0,3}}?{_WRONG}\b",
            rf"\bthis\s+is\s+(?:an?|the|my)\s+(?:\w+\s+)?{_WRONG}\s+(?:response|version|solution|chain|explanation)",
            rf"\A\W*(?:sure|certainly|of course|ok(?:ay)?|absolutely)\b[^\n]{{0,80}}?\b(?:{_WRONG}|mistake|error"
            r"|plausible|alter(?:ed|native)|modified)\b",
            r"\bas\s+(?:you\s+(?:requested|asked|instructed|wanted)|instructed)\b|\bper\s+(?:your|the)\s+"
            r"(?:request|instructions?|prompt)\b|\bthe\s+(?:prompt|instructions?)\s+(?:says?|asks?|tells?|wants?)\b",
            rf"\bplausible\s+(?:but|yet|though)\s+{_WRONG}\b",
        ),
    ),
    "mistake": (
        r"\b(?:mistake|error|wrong|incorrect|deliberate|intention)",
        (
            r"\b(?:deliberate|intentional|purposeful)(?:ly)?\b[^.\n]{0,30}\b(?:mistake|error|flaw|wrong|incorrect|slip"
            r"|miscalculat|misread|misappl)",
            r"\b(?:mistake|error|flaw|wrong|incorrect)(?:ly|s)?\b[^.\n]{0,30}\b(?:deliberate|intentional|on purpose)",
            r"\b(?:I|we)\s+(?:\w+\s+)?(?:deliberately|intentionally|purposely)\b|\bI\b[^.\n]{0,40}\bon purpose\b",
            # The mistake of this chain. "It would be a mistake to add" and "a common mistake is to add" warn of one.
            rf"\b(?:the|my|our|this|one)\s+(?!{_OTHERS})(?:\w+\s+)?mistake\s+(?:is|was|here|occurs?|happens?|lies|made"
            r"|in|carries|comes|on the way)\b(?!\s+to\b)",
            r"\bhere(?:['’]s| is)\s+(?:the|a|one|my)\s+(?:\w+\s+)?(?:mistake|error)\b|\bthis\s+(?:step\s+)?is\s+"
            r"(?:the|where the|my)\s+(?:mistake|error)\b",
            r"\b(?<!to )(?:introduc|insert|includ|incorporat|mak|add)(?:e|es|ed|ing)\s+(?:an?|one|the|this|some)\s+"
            r"(?:\w+\s+)?(?:mistake|error)s?\s+(?:here|on the way|in (?:step|the (?:first|second|third|last|next|step"
            r"|sum|addition|subtraction|multiplication|division|calculation|count)))",
            r"\b(?:I|we)(?:['’]ve| have| will|['’]ll)?\s+(?:introduc|insert|includ|incorporat)(?:e|ed|ing)\s+"
            r"(?:an?|one|the|this|some)\s+(?:\w+\s+)?(?:mistake|error)",
            r"\b(?:a|the|one)\s+(?:\w+\s+)?(?:mistake|error)\s+(?:was|is|has been)\s+(?:introduced|inserted"
            r"|included|made)",
            r"\bwith\s+(?:a|one|the)\s+(?:\w+\s+)?(?:mistake|error)\s*(?:[:.)]|in\b)",
            rf"{_START}(?:mistakenly|erroneously|incorrectly|wrongly|mistake|error)\b\s*[,:)\]]",
            r"\b(?:I|we)\s+(?:then\s+|have\s+|had\s+)?(?:mistakenly|erroneously|incorrectly|wrongly)\b"
            r"|\b(?:I|we)\b[^.\n]{0,40}\bby mistake\b",
            r"[(\[]\s*(?:this is\s+)?(?:(?:an?|the|my)\s+)?(?:mistake|error|intentional\w*"
            r"|deliberate\w*)\b[^)\]\n]{0,60}"
            r"[)\]]",
            rf"=\s{{0,4}}\S{{1,20}}\s{{0,4}}[(\[]\s{{0,4}}(?:this is\s+)?(?:{_WRONG}|should (?:be|have been)"
            r"|instead of)\b",
            r"[(\[]\s{0,4}(?:it\s+)?should (?:be|have been)\s+\S{1,20}\s{0,4}[)\]]",
            r"\bNote\s*:[^\n]{0,120}?\b(?:mistakes?|errors?|incorrect|wrong|not (?:correct|right))\b",
            r"\bNote\s+that\s+(?:this|the\s+(?:above|answer|response|chain|solution|reasoning))\b[^.\n]{0,60}?\b"
            r"(?:mistakes?|errors?|incorrect|wrong|not (?:correct|right))\b",
            r"\bI\s+(?:changed|altered|modified)\b[^.\n]{0,60}\b(?:wrong|incorrect)\b",
            r"\b(?:most\s+)?likely\s+mistake\b",
            # The conclusion, called wrong.
            rf"\b(?:therefore|thus|so|hence|conclude that)\b,?[^.\n]{{0,20}}\b(?:the|my|our|this)\s+(?:final"
            rf"\s+)?{_WRONG}\s+"
            r"(?:final\s+)?(?:answer|result|conclusion)\b\s*(?:is|would be|becomes|:|=)",
            rf"\banswer\s+is\b[^\n]{{1,60}}?(?:\(\s*(?:this is\s+|which is\s+)?(?:an?\s+|the\s+)?{_WRONG}\b|,?"
            rf"\s+(?:which|but "
            rf"(?:this|that|it)|and (?:this|that|it)|this)\s+(?:is|would be)\s+(?:an?\s+|the\s+)?(?:{_WRONG}\b"
            r"|not (?:the )?(?:right|correct)))",
            r"\b(?:someone|a (?:student|person))\s+who\s+(?:makes|made)\s+(?:one|a|this)\s+mistake\b",
            r"(?:故意|有意)[^。\n]{0,8}(?:错|误)|(?:错误|不正确)的(?:回答|答案)(?:是|为|如下)",
        ),
    ),
}
_COMPILED = {
    subject: (re.compile(word, re.IGNORECASE), [re.compile(rule, re.IGNORECASE) for rule in rules])
    for subject, (word, rules) in _RULES.items()
}
# A chain without any of these words breaks no rule of the subject. Most chains have none.
_WORDS = {
    "hint": (
        *("hint", "h:", 'h"', "h'", "h*", "line", "hinweis", "indice", "pista", "dica", "подсказк", "suggerimento"),
        *("indizio", "提示", "ヒント", "힌트"),
    ),
    "given answer": ("answer", "答案", "正解"),
    "response": ("respon", "wrong", "incorrect", "mistake", "error", "flaw", "faulty", "alter", "modif", "instruct")
    + ("prompt", "plausible", "as you", "your request", "the request"),
    "mistake": (
        "mistake",
        "error",
        "erron",
        "wrong",
        "incorrect",
        "flaw",
        "faulty",
        "deliberate",
        "intention",
        "purpose",
    )
    + ("should", "not correct", "not right", "not the", "instead", "错", "误", "不正确"),
}


def leaks_prompt(chain: str, allowed: str) -> bool:
    """
    Tell whether a chain speaks of its prompt: of the hint, or of its being a wrong response.

    Args:
        chain (`str`):
            The chain.
        allowed (`str`):
            Text, such as the question, that the chain may quote. If this text is about hints, mistakes or given
            answers, the chain may be about the same.

    Returns:
        `bool`: Whether the chain speaks of its prompt.

    Examples:

    ```python
    >>> leaks_prompt("The hint says 5, so the answer is 5.", allowed="What is 2 + 3?")
    True
    >>> leaks_prompt("It would be a mistake to add 4. The answer is 5.", allowed="What is 2 + 3?")
    False

    ```
    """
    lowered = chain.lower()
    return any(
        any(word in lowered for word in _WORDS[subject])
        and subject_word.search(allowed) is None
        and any(rule.search(chain) for rule in rules)
        for subject, (subject_word, rules) in _COMPILED.items()
    )
