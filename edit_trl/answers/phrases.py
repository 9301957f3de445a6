r"""
Phrases that state an answer, in each language. A new language or phrase is a new row here and in the tests.

Each pattern looks at a character a limited number of times, so that the time is linear in the length of a reply.
Patterns with a fixed first character are fast, because `re` skips to this character; `cues` are searched before any
pattern, and a reply without them costs next to nothing.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Language(NamedTuple):
    """
    How a language states an answer.

    Args:
        cues (`tuple[str, ...]`):
            Texts in lower case. A reply without any of them has no phrase of this language.
        statements (`list[re.Pattern]`):
            Patterns that end where the answer begins.
        short_statements (`list[re.Pattern]`):
            The same for phrases that also begin other sentences. They state an answer only if an option, a number, a
            date or a verdict follows, and nothing else.
        dashed (`re.Pattern`):
            A short statement with a dash or an arrow in place of the verb. What is before it must match
            `BEFORE_DASHED`.
        lead (`re.Pattern`):
            Words before the answer that do not belong to it, such as "therefore" or an article before an option.
        end (`re.Pattern` or `None`):
            Words after the answer that do not belong to it, such as a verb at the end.
        denial (`re.Pattern` or `None`):
            Denials: no answer is read.
        remark (`re.Pattern` or `None`):
            What is said of an answer without stating one: "correct", or a question.
        aside (`re.Pattern` or `None`):
            How longer remarks begin: "consistent with the conditions". Such a text is the answer only if the reply
            states no other.
    """

    cues: tuple[str, ...]
    statements: list[re.Pattern[str]]
    short_statements: list[re.Pattern[str]]
    dashed: re.Pattern[str]
    lead: re.Pattern[str]
    end: re.Pattern[str] | None
    denial: re.Pattern[str] | None
    remark: re.Pattern[str] | None
    aside: re.Pattern[str] | None


def _language(
    cues: str,
    statements: list[str],
    lead: str,
    noun: str,
    short: Sequence[str] = (),
    end: str = "",
    denial: str = "",
    remark: str = "",
    aside: str = "",
) -> Language:
    flags = re.MULTILINE | re.VERBOSE
    optional = [re.compile(pattern, re.I | re.X) if pattern else None for pattern in (end, denial, remark, aside)]
    return Language(
        tuple(cues.split()),
        [re.compile(pattern, flags) for pattern in statements],
        [re.compile(pattern, flags) for pattern in short],
        re.compile(_DASHED.replace("NOUN", noun), flags),
        re.compile(rf"[\s,]*(?:(?:{lead})[\s:,]*)+", re.I | re.X),
        *optional,
    )


# Between the noun and the verb, in languages with spaces: "to this question", "therefore".
_MARKS = r"[*_\"')»”]{0,4}"
_COLON = r"\s*(?:[-=]>|[:=→⇒])"
# A dash or an arrow after the noun: "Final answer - 42". The noun must begin a sentence, after no other words than
# these, because with others it may be a wrong answer, or none.
_BESIDE_NOUN = r"""(?i:so|thus|therefore|hence|finally|the|my|our|final|correct|right|best
    |also|daher|somit|die|meine|endgültige|richtige|donc|ainsi|la|ma|finale|correcte|bonne|entonces|mi|correcta
    |portanto|então|a|minha|correta|certa|quindi|mia|corretta|giusta|итак|правильный|окончательный)"""
_DASHED = rf"(?:NOUN)(?:\s+{_BESIDE_NOUN})?{_MARKS}\s*(?:[-–—]\s+|[-=]>|[→⇒])"
BEFORE_DASHED = re.compile(
    rf"""(?:\A|\n|[.!?。।]\s?)[\#>*_"'\ ]{{0,6}}(?:{_BESIDE_NOUN},?\s+
        |(?:所以|因此|故|最终|最終|正确|正確)的?|よって|したがって|最終的な|正しい|따라서\s|최종\s?|、){{0,4}}\Z""",
    re.X,
)


LANGUAGES: dict[str, Language] = {
    "en": _language(
        "answer option choice boxed fbox #### alternative",
        [
            rf"""(?<!/)[Aa](?i:nswer)s?(?:\ choice)?\]?{_MARKS}
                (?: (?:\s+(?:to|for)(?:\s+[\w'’]+){{1,8}}?)?  # the answer to this question, therefore, is
                    (?:,?\s+(?:therefore|thus|then|hence|indeed|simply|clearly),?)?
                    (?:\s+\([^()\n]{{1,30}}\)|,?\s+rounded(?:\s+[\w'’]+){{1,6}}?,?)?
                    \s+(?i:is|are|was|equals|(?:comes\sout|turns\sout|works\sout)(?:\sto)?(?:\sbe)?
                      |(?:would|should|must|will|has\sto)(?:\s+(?:then|therefore|thus|just))?\s+be)\b
                  |{_COLON} )""",
            r"(?<![A-Za-z])(?i:correct\ (?:option|choice|alternative))\s*(?:is\b|would\ be\b|:)",
            # a heading, of a step perhaps
            r"""^[#*_\ \t]*(?:(?:[Ss]tep\ )?[0-9]{1,2}[.:]\ [*_]*)?
                (?i:(?:the\ |my\ )?(?:final\ |correct\ )?answer)(?:\ \([^()\n]{1,30}\))?[*_\ \t]*$""",
            r"<(?i:final_?)?(?i:answer)>",
            r"\[ANSWER\]",
            r"\\(?:boxed|fbox)\s*\{",
            r"\\boxed\ (?=\w)",
            r"\#{4}(?<![^\n]\#{4})(?!\#)",
        ],
        noun=r"(?i:answer)",
        lead=r"""\b(?:definitely|clearly|simply|most\ likely|probably|actually|indeed|therefore|thus|hence|obviously
            |certainly|surely|just|only|still|now|exactly
            |answer\ choice(?=\s\(?[A-R]\b)|of\ course|in\ fact|in\ this\ case|equal\ to|found\ to\ be|given\ by|then
            |(?:the\ )?letter(?=\s\(?[A-R]\b))(?=[\s:,])""",
        denial=r"""^(?:wrong|incorrect|unclear)$
            |^unlikely\b
            |^(?:not|let['’]?s|let\ (?:me|us)|we\ (?:can|need|have|must|know|first|start))\b(?!\s*,)""",
        remark=r"correct|verified|confirmed|clear|obvious",
        aside=r"""(?:(?:indeed|also|now|both|therefore|thus|only|always|already|clearly|just)\ )*
            (?:(?:correct|verified|confirmed|reasonable|sensible|consistent|accurate|clear|obvious|helpful|rounded|given
                  |expressed|written|shown|boxed|stated|based|derived|obtained|found|enclosed|positive|negative|right
                  |final|supported|simplified|unchanged|exact|approximate|expected|valid|true|affected|independent)
                (?=$|[,;]|\ (?:with|to|in|as|by|from|on|because|since|and|for|that|at|when|if|using|above|below|of)\b)
              |(?:in|within)\ (?:the\ )?(?:simplest|lowest|form|dollars|units|terms|range|box|correct)\b
              |(?:less|more|greater|smaller|larger|higher|lower)\ than\b|the\ same\b
              |an?\ (?:(?:whole|positive|negative|rounded|natural|real)\ )*(?:number|integer|fraction|value)\b)""",
    ),
    "de": _language(
        "antwort option lösung",
        [
            rf"""\b[Aa](?i:ntwort)(?:en)?{_MARKS}(?:\s+(?:auf|zu)(?:\s+\w+){{1,8}}?)?
                (?:\s+(?:ist|sind|lautet|lauten|wäre|war|beträgt)\b|{_COLON})""",
            r"""(?<!\b[Ww]ie\ )\b(?:lautet|lauten)\s+
                (?:(?:also|daher|somit|demnach|folglich|deshalb)\s+)?(?:die|meine)\s+
                (?:\w+\s+){0,2}Antwort(?:en)?\b(?!\s*[?.!,;]|\s+(?:auf|zu|und)\b)[*_]*:?""",
            r"\b[Rr]ichtige[rn]?\ (?:Option|Auswahl|Wahl|Lösung)\s*(?:ist\b|lautet\b|:)",
            r"\bDie\ (?:\w+\ )?Lösung\s+(?:ist|lautet)\b",
        ],
        # "Daher ist die Antwort 42." Not "Was ist die Antwort?"
        short=[
            r"""(?<!\b[Ww]as\ )\b(?:ist|sind|wäre|beträgt)\s+(?:(?:also|daher|somit|demnach|folglich|deshalb)\s+)?
                (?:die|meine)\s+(?:\w+\s+){0,2}Antwort(?:en)?\b(?!\s*[?.!,;])[*_]*:?""",
        ],
        noun=r"(?i:antwort)",
        lead=r"""\b(?:also|daher|somit|demnach|folglich|deshalb|tatsächlich|eindeutig|einfach|damit|gleich|genau
            |(?:die\ )?(?:Option|Antwort|Möglichkeit)(?=\s\(?[A-R]\b))(?=[\s:,])""",
        denial=r"^(?:nicht|kein\w*|unklar|falsch|unbekannt)\b",
        remark=r"(?:richtig|korrekt|klar|eindeutig)",
        aside=r"""(?:(?:auch|also|damit|somit|tatsächlich)\ )*
            (?:richtig|korrekt|plausibel|sinnvoll|gerundet|konsistent)
            (?=$|[,;]|\ (?:mit|auf|in|weil|da|denn|und|für|als)\b)""",
    ),
    "fr": _language(
        "réponse option choix",
        [
            rf"""[Rr](?i:éponse)s?{_MARKS}(?:\s+(?:correctes?|exactes?|finales?|justes?|attendues?|est\ donc(?=\s?:)))*
                (?:\s+(?:à|au|pour)(?:\s+[\w'’]+){{1,8}}?)?(?:\s+(?:est|sont|serait|était)\b|\ ?{_COLON})""",
            r"\b(?:option|choix)\s+(?:correcte?|exacte?)\s*(?:est\b|:)",
            r"\bbonn?e?\s+(?:option|choix)\s*(?:est\b|:)",
        ],
        noun=r"(?i:réponse)",
        lead=r"""\b(?:donc|alors|ainsi|bien|tout\ simplement|simplement|en\ fait|de(?=\s[0-9])|égale?\ à
            |par\ conséquent|évidemment
            |(?:l['’]option|la\ réponse|la\ lettre|le\ choix|la|le|option)(?=\s\(?[A-R]\)?(?:\W|$)))(?=[\s:,])""",
        denial=r"^(?:pas|inconnue|fausse|incorrecte)\b",
        remark=r"(?:correcte|exacte|juste|claire|évidente)s?",
        aside=r"""(?:(?:bien|donc|aussi)\ )*(?:correcte|exacte|juste|cohérente|raisonnable|arrondie|exprimée|donnée)
            (?=$|[,;]|\ (?:avec|à|au|en|car|parce|et|pour|dans|comme)\b)""",
    ),
    "es": _language(
        "respuesta opción opcion alternativa",
        [
            rf"""[Rr](?i:espuesta)s?{_MARKS}(?:\s+(?:correctas?|final(?:es)?|definitiva|esperada))*
                (?:\s+(?:a|para)(?:\s+[\w]+){{1,8}}?)?(?:,?\s+(?:por\ (?:lo\ )?tanto|entonces),?)?
                (?:\s+(?:es|son|sería|será)\b|{_COLON})""",
            r"\b(?:opci[oó]n|alternativa)\s+correcta\s*(?:es\b|:)",
        ],
        noun=r"(?i:respuesta)",
        lead=r"""\b(?:por\ (?:lo\ )?tanto|entonces|simplemente|claramente|realmente|en\ realidad|igual\ a|de(?=\s[0-9])
            |(?:(?:la\ )?(?:opción|opcion|alternativa|letra|respuesta)|la)(?=\s\(?[A-R]\)?(?:\W|$)))(?=[\s:,])""",
        denial=r"^(?:no(?=\s\w)(?!\s(?:porque|ya|pues))|incorrecta|desconocida)\b",
        remark=r"(?:correcta|clara|obvia)s?",
        aside=r"""(?:también\ )?(?:correcta|consistente|coherente|razonable|redondeada|expresada|dada)
            (?=$|[,;]|\ (?:con|a|al|en|porque|ya|y|para|como)\b)""",
    ),
    "pt": _language(
        "resposta opção opcao alternativa",
        [
            rf"""[Rr](?i:esposta)s?{_MARKS}(?:\s+(?:corretas?|certas?|final|finais|definitiva|esperada))*
                (?:\s+(?:a|à|para)(?:\s+[\w]+){{1,8}}?)?(?:,?\s+(?:portanto|então),?)?
                (?:\s+(?:é|são|seria|será)(?!\w)|{_COLON})""",
            r"\b(?:op[çc][ãa]o|alternativa)\s+(?:correta|certa)\s*(?:é(?!\w)|:)",
        ],
        noun=r"(?i:resposta)",
        lead=r"""\b(?:portanto|então|simplesmente|claramente|realmente|na\ verdade|igual\ a|de(?=\s[0-9])
            |(?:(?:a\ )?(?:opção|alternativa|letra|resposta)|a)(?=\s\(?[A-R]\)?(?:\W|$)))(?=[\s:,])""",
        denial=r"^(?:não(?=\s\w)(?!\s(?:porque|pois))|incorreta|errada|desconhecida)\b",
        remark=r"(?:correta|certa|clara|óbvia)s?",
        aside=r"""(?:também\ )?(?:correta|certa|consistente|coerente|razoável|arredondada|expressa|dada)
            (?=$|[,;]|\ (?:com|para|em|porque|pois|e|como)\b)""",
    ),
    "it": _language(
        "rispost opzione scelta alternativa",
        [
            rf"""[Rr](?i:ispost)[aeAE]{_MARKS}(?:\s+(?:corrett[ae]|giust[ae]|final[ei]|esatt[ae]|definitiva))*
                (?:\s+(?:a|alla|per)(?:\s+\w+){{1,8}}?)?(?:,?\s+(?:quindi|pertanto|dunque),?)?
                (?:\s+(?:è|é|e'|E'|È|sono|sarebbe|sarà)(?!\w)|{_COLON})""",
            r"\b(?:opzione|scelta|alternativa)\s+(?:corretta|giusta|esatta)\s*(?:[èé](?!\w)|:)",
        ],
        noun=r"(?i:risposta)",
        lead=r"""\b(?:quindi|pertanto|dunque|allora|semplicemente|chiaramente|effettivamente|in\ realtà
            |pari\ a|uguale\ a|di(?=\s[0-9])
            |(?:l['’]opzione|la\ risposta|la\ lettera|la|opzione)(?=\s\(?[A-R]\)?(?:\W|$)))(?=[\s:,])""",
        denial=r"^(?:non|errata|sbagliata|sconosciuta)\b",
        remark=r"(?:corretta|giusta|esatta|chiara)",
        aside=r"""(?:anche\ )?(?:corretta|giusta|esatta|coerente|ragionevole|arrotondata|espressa|data)
            (?=$|[,;]|\ (?:con|a|in|perché|poiché|e|per|come)\b)""",
    ),
    "ru": _language(
        "ответ вариант выбор",
        [
            rf"""(?<!\w)[Оо](?i:твет)(?:ом|ы)?{_MARKS}(?:\s+на(?:\s+\w+){{1,5}}?)?
                (?:,?\s+(?:таким\ образом|следовательно),?)?
                (?:\s+(?:является|являются|будет|равен|таков)(?!\w)|\s*(?:[:=]|\s[—–-]\s)(?:\s*это(?!\w))?)""",
            r"""(?<!\w)(?:[Пп]равильный|[Вв]ерный)\s+(?:вариант|выбор)(?:\s+ответа)?
                \s*(?:[:=]|\s[—–-]\s|(?=\s\(?[A-R]\)?(?!\w)))""",
        ],
        noun=r"(?i:ответ)",
        lead=r"""(?<!\w)(?:следовательно|таким\ образом|значит|итак|действительно|вариант(?:\ ответа)?(?=\s\(?[A-R]\b)
            |буква(?=\s\(?[A-R]\b))(?=[\s:,])""",
        denial=r"^(?:не|неверен|неизвестен|неверный)(?!\w)",
        remark=r"(?:правильный|верный|верен|ясен)",
    ),
    "zh": _language(
        "答 选 選",
        [
            r"【(?:正确)?答案】",
            r"""答案{m}\s?(?:(?:应该|應該|应当|应|應|就|也|正|便|只能|一定|肯定|显然|确实|其实|因此|所以|为|為)\s?)*
                (?:是|为|為|等于|等於|:|=)(?!否[^\s。,!！])""".replace("{m}", _MARKS),
            r"正确的?(?:选项|選項|选择)\s?(?:应该|应|就)?(?:是|为|為|:)|正確的?(?:選項|選擇)\s?(?:應該|就)?(?:是|為|:)",
        ],
        short=[
            r"""(?:[故选選应該]|因此|所以|答案|我|因而)?(?:应该|应|應該|應)?(?<![不别別])[选選](?:择|擇)?(?:项|項|答案)?(?:是|为|為|:)?
                (?=\s?[「『【(*\"“]*\s?[A-R](?![A-Za-z]))""",
            r"^答\s?:",
        ],
        noun=r"答案",
        lead=r"(?:应该是|应是|就是|选项|選項|第?选择|因此|所以|选|選)(?=[\s:(「【*A-R0-9])",
        end=r"(?<=[A-R)])\s?(?:选项|選項|项|項)?$|(?<=.)(?:了|的|这个选项)$",
        denial=r"^(?:不(?!$|,|是$)|没有|無法|无法|未知)|^错误的?$",
        remark=r"正确的?|正確的?|对的|显然的?|.*(?:什么|什麼|多少|哪[个個一]|几[个個]).*",
        aside=r"(?:也|都)?(?:合理|正确|正確|符合|一致|准确|四舍五入)(?=$|的$|,|题|題|所|条|條|因|后|後)",
    ),
    "ja": _language(
        "答え 答は 正解 回答 解答 選択肢",
        [
            r"(?:答え?|正解|回答|解答)(?:の選択肢|の番号)?[*_」]{0,3}\s?(?:は|:|=)\s?[、,]?(?!何|なに|なん|どれ|どの|いくつ)",
            r"正しい(?:選択肢|答え|もの)は\s?[、,]?(?!何|なに|なん|どれ|どの|いくつ)",
        ],
        noun=r"答え|正解|回答|解答",
        lead=r"(?:したがって|よって|つまり|やはり|選択肢)(?=[、,\s:(「A-R0-9])[、,]?",
        end=r"""(?:の?選択肢)?(?:です|である|でした|でしょう|だ|になります|となります|になる|となる|でございます|だと思います
            |ということになります|であると言えます)[。.ね]*$""",
        denial=r"(?:では|じゃ)(?:ない|ありません)|^(?:不明|わかりません|分かりません)",
        remark=r"正しい|.*(?:何|いくつ|どれ|どちら)(?:です)?か?",
    ),
    "ko": _language(
        "답 정답 해답 선택지",
        [
            r"(?<![가-힣])(?:최종\s?|올바른\s|정확한\s|옳은\s)?(?:정답|답안|해답|답)[*_]{0,3}(?:은|는|:|\s?=|\s:)\s?,?(?!\s?무엇|\s?뭐)",
            r"(?<![가-힣])(?:올바른|정확한|옳은)\s(?:선택지|보기|것)(?:은|는|:)(?!\s?무엇)",
        ],
        noun=r"정?답",
        lead=r"(?:따라서|그러므로|즉|바로|선택지|보기)(?=[\s:(「A-R0-9])",
        end=r"""\s?(?:번)?\s?(?:입니다|이다|이에요|예요|이야|야|임|이지요|이죠|이\ 됩니다|가\ 됩니다|이\ 된다|가\ 된다
            |이\ 되겠습니다|라고\ 할\ 수\ 있습니다)[.]*$""",
        denial=r"(?:이|가)?\s?아[니닙닌]|^(?:없|모르|알\ 수\ 없)",
        remark=r"맞습니다|.*(?:무엇|몇|어느).*",
    ),
    "ar": _language(
        "جابة الجواب إجابتي",
        [
            r"""(?:الإجابة|الاجابة|الجواب|إجابتي|اجابتي)(?:\s+(?:الصحيحة|النهائية|الصحيح|النهائي))*{m}
                \s*(?:\s(?:هي|هو)(?!\w)|:|=)""".replace("{m}", _MARKS),
        ],
        noun=r"الإجابة|الاجابة|الجواب",
        lead=r"(?:إذن|لذلك|بالتالي|الخيار|الحرف)(?=[\s:(A-R0-9])",
        denial=r"^(?:ليست?|غير|لا(?=\s\w))(?!\w)",
        remark=r"صحيحة|صحيح",
    ),
    "fa": _language(
        "پاسخ جواب",
        [r"(?:پاسخ|جواب)(?:\s+(?:صحیح|درست|نهایی))*[*_]{0,3}\s*(?:برابر\s(?:با|است\sبا)(?!\w)|:|=)"],
        short=[r"(?:پاسخ|جواب)(?:\s+(?:صحیح|درست|نهایی))*\s+(?=[(0-9A-R-])"],
        noun=r"پاسخ|جواب",
        lead=r"(?:بنابراین|گزینه)(?=[\s:(A-R0-9])",
        end=r"\s(?:است|می‌باشد|میباشد|خواهد\sبود)$",
        denial=r"نیست|^نامشخص",
    ),
    "hi": _language(
        "उत्तर जवाब",
        [r"(?:उत्तर|जवाब)[*_]{0,3}\s*(?::|=)|(?:उत्तर|जवाब)\sहै\s?:"],
        short=[r"(?:उत्तर|जवाब)\s+(?=[(0-9A-R-])"],
        noun=r"उत्तर|जवाब",
        lead=r"(?:इसलिए|अतः|विकल्प)(?=[\s:(A-R0-9])",
        end=r"\s(?:है|हैं|होगा|होगी|था)$",
        denial=r"नहीं|^अज्ञात",
    ),
}  # fmt: skip

# Words before a phrase that make it a condition or a question: in English, and in the other languages.
_AFTER_CONDITION = r"\s+(?:(?:the|my|our|your|die|meine|la|a|sa|mi|minha)\s+)?(?:\w+\s+)?$"
ENGLISH_CONDITION = re.compile(rf"\b(?:if|whether|unless|what|suppose|assuming)(?:\s+that)?{_AFTER_CONDITION}", re.I)
CONDITION = re.compile(
    rf"""\b(?:wenn|falls|ob|was|wie|si|se|qu['’]|quelle|cuál|qual|quale|если|какой)
            (?:\s+(?:est|es|é|è))?{_AFTER_CONDITION}
      |(?:如果|若|假如|假设|是否|もし|もしも|만약|إذا\ كانت|إذا\ كان|अगर|यदि|اگر|[不别別])\s?[^\s。,.]{{0,6}}\s?$""",
    re.I | re.X,
)

# Adjectives before "answer" that make it another one than that of the reply.
OTHER_ANSWER = re.compile(
    r"""(?:\b(?:wrong|incorrect|other|false|previous|earlier|initial|original|naive|naïve|tempting|intuitive|student
          |(?:student|user|model)(?:['’]s|s['’])
          |falsche[nrs]?|andere[nr]?|mauvaises?|fausses?|autres?|otras?|falsas?|outras?|altr[ae]|errat[ae]|sbagliat[ae]
          |неправильны[йе]|неверны[йе]|другие)\ +
        |(?:错误|錯誤|其他|其它)的?|(?:間違った|誤った|他の)|(?:잘못된|틀린|다른)\ |(?:गलत|अन्य)\ )\Z""",
    re.I | re.X,
)
# What people say of an answer in a heading: "Explanation of the answer:".
ABOUT_ANSWER = re.compile(
    r"\b(?:explanation|reasoning|justification|how (?:i|we|you) (?:got|get|found|find)|confidence|units?"
    r"|(?:double-)?check|verify|verification|explain)(?:\s+(?:of|for|in|behind))?(?:\s+(?:the|my|your|our|this))?(?:\s+final)?\s+\Z",
    re.I,
)
# Words before "answer" that make it one of several. It counts only if the reply states no other.
LESSER_ANSWER = re.compile(
    r"\b(?:obvious|typical|alternative|another(?: possible)?|possible|common|your)\s+\Z"
    r"|\b(?:you|one|some|people|many|students?|others|tempt\w+|mistake\w*|wrongly|incorrectly)\b[^.!?\n]{0,40}?"
    r"\b(?:think|thinks|say|says|assume|believe|conclude|claim)(?: that)?(?: the)?\s+\Z",
    re.I,
)
# A sentence about what is not the case, before "the answer would be", or before "the answer is".
COUNTERFACTUAL = re.compile(
    r"\b(?:if|had|were|suppose|supposing|assuming|without|otherwise|in that case)\b[^.!?\n]*\Z", re.I
)
PAST_CONDITION = re.compile(r"\b[Ii]f\b[^.!?\n]*\b(?:had|were|did|didn['’]t|hadn['’]t|weren['’]t)\b[^.!?\n]*\Z")
# A denial that goes on with the answer: "not B but C".
NOT_BUT = re.compile(
    r"(?:not|nicht|no es|non|pas)\s+(?:[^,;.!?]{1,60}),?\s+(?:but|sondern|sino|mais|ma)\s+(?:rather\s+)?(?=\S)"
    r"|不是[^，,。]{1,30}[，,]?\s?而是",
    re.I,
)

# Clauses after an answer: explanations. English and what looks like it.
CLAUSE_WORDS = (
    r"which|because|since|so|as|not|but|where|weil|denn|parce|car|puisque|porque|perché|poiché|потому|поскольку"
    r"|так\ как"
)
CJK_CLAUSE = re.compile(r"[,;、，；]\s?(?=因|所以|也就|即|而|なぜ|理由|왜냐|그|이유|也|这|這|这是)|[（(](?=[因即也])")

# Words that mean yes, no, true, false, valid and invalid.
VERDICTS: dict[str, str] = {
    word: verdict
    for verdict, words in {
        "yes": "yes ja oui sí si sim sì да 是 是的 はい 예 네 نعم بله हाँ हां",
        "no": "no nein non não нет 否 不是 いいえ 아니요 아니오 아니 لا نه नहीं",
        "true": "true wahr vrai verdadero verdadeiro vero верно истина правда 真 正确 正確 对 真的 正しい 참 صحيح सत्य",
        "false": "false falsch faux falso неверно ложь 假 错误 錯誤 错 不正确 偽 誤り 거짓 خطأ असत्य",
        "valid": "valid gültig valide válido válida valido 有效 有効 유효",
        "invalid": "invalid ungültig invalide inválido inválida 无效 無効 무효",
    }.items()
    for word in words.split()
}
