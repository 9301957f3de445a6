"""
Tests of answers in other languages: their phrases, digits and punctuation, and what does not state an answer.

Every bug adds a row.
"""

import pytest

from edit_trl.answers import answers_match, extract_answer, reasoning
from edit_trl.answers.phrases import LANGUAGES


# Each row: language, what a model wrote, what is read.
READ = [
    # Chinese
    ("zh", "3加4等于7。所以答案是7。", "7"),
    ("zh", "所以答案是：7。", "7"),
    ("zh", "答案：７", "7"),
    ("zh", "答案: 42个苹果。", "42个苹果"),
    ("zh", "最终答案为42。", "42"),
    ("zh", "因此，正确答案是（Ｃ）。", "(C)"),
    ("zh", "因此，正确答案是C选项。", "(C)"),
    ("zh", "因此，正确答案是选项C。", "(C)"),
    ("zh", "正确答案应该是「Ｃ」。", "(C)"),
    ("zh", "答案是「（Ｃ）」。", "(C)"),
    ("zh", "正确选项是C。", "(C)"),
    ("zh", "正确的选项为：C", "(C)"),
    ("zh", "其余都不对，故选C。", "(C)"),
    ("zh", "因此选择（C）。", "(C)"),
    ("zh", "所以应该选B。", "(B)"),
    ("zh", "我选择B", "(B)"),
    ("zh", "答案選B。", "(B)"),
    ("zh", "**答案：C**", "(C)"),
    ("zh", "**最终答案**：42", "42"),
    ("zh", "答案是C，因为其余太大。", "(C)"),
    ("zh", "答案是42，因为6乘以7是42。", "42"),
    ("zh", "答案是C。巴黎是首都。", "(C)"),
    ("zh", "答案是C、巴黎。", "(C)"),
    ("zh", "答案是是。", "是"),
    ("zh", "答案是否。", "否"),
    ("zh", "答案是：不是", "不是"),
    ("zh", "答案就是42了。", "42"),
    ("zh", "答案是12元。", "12元"),
    ("zh", "答案是１，２５０元。", "1,250元"),
    ("zh", "答案是巴黎。", "巴黎"),
    ("zh", "答案為 42。", "42"),
    ("zh", "正確答案是 (B)。", "(B)"),
    ("zh", "答：42个。", "42个"),
    ("zh", "答案是\\boxed{42}。", "42"),
    ("zh", "如果答案是3，就太小。所以答案是4。", "4"),
    # Japanese
    ("ja", "したがって、答えは42です。", "42"),
    ("ja", "答えは４２です。", "42"),
    ("ja", "答え：42", "42"),
    ("ja", "答えは42になります。", "42"),
    ("ja", "答えは42となります。", "42"),
    ("ja", "答えは42である。", "42"),
    ("ja", "答えは42だ。", "42"),
    ("ja", "答えは42でございます。", "42"),
    ("ja", "答えは42円です。", "42円"),
    ("ja", "正解は（Ｃ）です。", "(C)"),
    ("ja", "正解は「（Ｃ）」です。", "(C)"),
    ("ja", "正解は、Cです。", "(C)"),
    ("ja", "正しい選択肢はCです。", "(C)"),
    ("ja", "答えは選択肢Cです。", "(C)"),
    ("ja", "答えは「はい」です。", "はい"),
    ("ja", "答えはいいえです。", "いいえ"),
    ("ja", "最終的な答えは 1,250 です。", "1,250"),
    ("ja", "答えは東京です。", "東京"),
    ("ja", "**答え:** 42", "42"),
    # Korean
    ("ko", "따라서 정답은 42입니다.", "42"),
    ("ko", "정답: 42", "42"),
    ("ko", "답은 42이다.", "42"),
    ("ko", "답은 42예요.", "42"),
    ("ko", "최종 답은 42개입니다.", "42개"),
    ("ko", "정답은 (C)입니다.", "(C)"),
    ("ko", "정답은 C입니다.", "(C)"),
    ("ko", "올바른 답은 B입니다.", "(B)"),
    ("ko", "정답은 보기 C입니다.", "(C)"),
    ("ko", "답은 예입니다.", "예"),
    ("ko", "**정답**: (C)", "(C)"),
    ("ko", "정답은 서울입니다.", "서울"),
    # German
    ("de", "Die Antwort ist 42.", "42"),
    ("de", "Die Antwort lautet 42.", "42"),
    ("de", "Die richtige Antwort ist (C).", "(C)"),
    ("de", "Die korrekte Antwort lautet: **C**", "(C)"),
    ("de", "Daher ist die Antwort 42.", "42"),
    ("de", "Somit lautet die richtige Antwort (B) Paris.", "(B)"),
    ("de", "Also ist die endgültige Antwort: 12,5", "12,5"),
    ("de", "Antwort: 42 Äpfel", "42 Äpfel"),
    ("de", "**Antwort:** C", "(C)"),
    ("de", "Die Antworten sind 3 und 4.", "3 und 4"),
    ("de", "Die Antwort auf die Frage ist daher 42.", "42"),
    ("de", "Die Antwort ist ja, weil 3 < 4.", "ja"),
    ("de", "Die Antwort ist also nein.", "nein"),
    ("de", "Die Antwort ist Option C.", "(C)"),
    ("de", "Die Antwort ist 12,50 €.", "12,50 €"),
    ("de", "Die Lösung lautet x = 5.", "x = 5"),
    ("de", "Die Antwort ist „Paris“.", "Paris"),
    ("de", "Die Antwort wäre 42.", "42"),
    # French
    ("fr", "La réponse est 42.", "42"),
    ("fr", "La réponse est donc 42.", "42"),
    ("fr", "La bonne réponse est la C.", "(C)"),
    ("fr", "La réponse correcte est l'option C.", "(C)"),
    ("fr", "La réponse finale est : 1 250", "1 250"),
    ("fr", "Réponse : (B)", "(B)"),
    ("fr", "**Réponse :** 12,5 km", "12,5 km"),
    ("fr", "La réponse à la question est 42 pommes.", "42 pommes"),
    ("fr", "La réponse est oui, car 3 < 4.", "oui"),
    ("fr", "La réponse est « non ».", "non"),
    ("fr", "La réponse est de 42 euros.", "42 euros"),
    ("fr", "Les réponses sont 3 et 4.", "3 et 4"),
    ("fr", "La réponse serait 42.", "42"),
    # Spanish
    ("es", "La respuesta es 42.", "42"),
    ("es", "Por lo tanto, la respuesta correcta es (C).", "(C)"),
    ("es", "La respuesta correcta es la C.", "(C)"),
    ("es", "La respuesta final es: 42", "42"),
    ("es", "La opción correcta es la opción B.", "(B)"),
    ("es", "Respuesta: 42 manzanas", "42 manzanas"),
    ("es", "**Respuesta:** C", "(C)"),
    ("es", "La respuesta es, por lo tanto, 42.", "42"),
    ("es", "La respuesta es sí, porque 3 < 4.", "sí"),
    ("es", "La respuesta es no.", "no"),
    ("es", "La respuesta a la pregunta es 12 €.", "12 €"),
    ("es", "Las respuestas son 3 y 4.", "3 y 4"),
    ("es", "La respuesta sería 42.", "42"),
    # Portuguese
    ("pt", "A resposta é 42.", "42"),
    ("pt", "Portanto, a resposta correta é (C).", "(C)"),
    ("pt", "A alternativa correta é a letra C.", "(C)"),
    ("pt", "A resposta certa é a C.", "(C)"),
    ("pt", "A resposta final é: R$ 12,50", "R$ 12,50"),
    ("pt", "Resposta: 42 maçãs", "42 maçãs"),
    ("pt", "A resposta é, portanto, 42.", "42"),
    ("pt", "A resposta é sim, porque 3 < 4.", "sim"),
    ("pt", "A resposta é não.", "não"),
    ("pt", "As respostas são 3 e 4.", "3 e 4"),
    # Russian
    ("ru", "Ответ: 42", "42"),
    ("ru", "Ответ: 42 яблока.", "42 яблока"),
    ("ru", "Правильный ответ: (C).", "(C)"),
    ("ru", "Правильный ответ — C.", "(C)"),
    ("ru", "Таким образом, ответ — 42.", "42"),
    ("ru", "Ответом является 42.", "42"),
    ("ru", "Итоговый ответ равен 1 250.", "1 250"),
    ("ru", "ОТВЕТ: да", "да"),
    ("ru", "**Ответ:** нет, потому что 3 < 4.", "нет"),
    ("ru", "Ответ будет 42.", "42"),
    ("ru", "Ответ на вопрос: 12,5", "12,5"),
    ("ru", "Правильный вариант — B.", "(B)"),
    ("ru", "Ответ: «Париж».", "Париж"),
    # Italian
    ("it", "La risposta è 42.", "42"),
    ("it", "La risposta corretta è (C).", "(C)"),
    ("it", "La risposta giusta è la C.", "(C)"),
    ("it", "L'opzione corretta è la B.", "(B)"),
    ("it", "Quindi la risposta finale è: 12,5", "12,5"),
    ("it", "Risposta: 42 mele", "42 mele"),
    ("it", "La risposta è quindi 42.", "42"),
    ("it", "La risposta è sì, perché 3 < 4.", "sì"),
    ("it", "La risposta è no.", "no"),
    ("it", "Le risposte sono 3 e 4.", "3 e 4"),
    ("it", "La risposta e' 42.", "42"),
    # Arabic, Persian, Hindi
    ("ar", "إذن الإجابة هي ٤٢.", "42"),
    ("ar", "الإجابة الصحيحة هي (C).", "(C)"),
    ("ar", "\u200fالجواب هو ٤٢\u200f.", "42"),
    ("ar", "الإجابة: ٣٫٥", "3.5"),
    ("ar", "الإجابة هي نعم.", "نعم"),
    ("fa", "بنابراین پاسخ ۴۲ است.", "42"),
    ("fa", "پاسخ: ۴۲", "42"),
    ("fa", "پاسخ صحیح گزینه: C", None),
    ("hi", "इसलिए उत्तर ४२ है।", "42"),
    ("hi", "उत्तर: ४२", "42"),
    ("hi", "सही उत्तर (C) है।", "(C)"),
    # English with other characters
    ("en", "The answer is （Ｃ）.", "(C)"),
    ("en", "The answer is ４２。", "42"),
    ("en", "Answer：42", "42"),
    ("en", "The answer is 「42」.", "42"),
    ("en", "The answer is ٤٢.", "42"),
    ("en", "\ufeffThe answer is 42.", "42"),
    ("en", "The ans\u200bwer is 42.", "42"),
    ("en", "The answer is\u00a042.", "42"),
    ("en", "The answer\x00 is 42.", "42"),
    ("en", "The answer is 42.\rQ: next", "42"),
    ("en", "Answer: 42\u2028Q: next", "42"),
]  # fmt: skip
SILENT = [
    ("zh", "答案是什么？"),
    ("zh", "答案是多少呢？"),
    ("zh", "答案是哪一个？"),
    ("zh", "我们检查答案是否正确。"),
    ("zh", "答案是正确的。"),
    ("zh", "如果答案是3，就太小。"),
    ("zh", "答案不是C。"),
    ("zh", "选项A是错误的。"),
    ("zh", "选项A：巴黎\n选项B：罗马"),
    ("zh", "不选A。"),
    ("zh", "可以选A或B。"),
    ("zh", "选A、B。"),
    ("zh", "答：小明有很多苹果。"),
    ("zh", "3加4等于7。"),
    ("zh", "答案是不确定的。"),
    ("ja", "答えは何ですか？"),
    ("ja", "答えはいくつですか。"),
    ("ja", "答えはCではありません。"),
    ("ja", "もし答えは3なら、小さい。"),
    ("ja", "答えは正しいです。"),
    ("ja", "3足す4は7です。"),
    ("ko", "정답은 무엇입니까?"),
    ("ko", "정답은 C가 아닙니다."),
    ("ko", "대답은 42번 했다."),
    ("ko", "만약 답은 3이라면 작다."),
    ("ko", "3 더하기 4는 7입니다."),
    ("de", "Was ist die Antwort?"),
    ("de", "Wie lautet die Antwort? Wir rechnen."),
    ("de", "Die Antwort ist nicht (A)."),
    ("de", "Die Antwort ist unklar."),
    ("de", "Die Antwort ist richtig."),
    ("de", "Wenn die Antwort 5 ist, stimmt es."),
    ("de", "Wenn die Antwort ist 5, stimmt es."),
    ("de", "42 ist die Antwort, die ich suche."),
    ("de", "Paris ist die richtige Antwort und sonst nichts."),
    ("de", "3 plus 4 ist 7."),
    ("fr", "La réponse n'est pas (A)."),
    ("fr", "Quelle est la réponse ?"),
    ("fr", "Si la réponse est 5, elle est fausse."),
    ("fr", "La réponse est correcte."),
    ("fr", "La réponse est inconnue."),
    ("es", "La respuesta no es (A)."),
    ("es", "¿Cuál es la respuesta?"),
    ("es", "Si la respuesta es 5, es falsa."),
    ("es", "La respuesta es correcta."),
    ("es", "La respuesta es no clara."),
    ("pt", "A resposta não é (A)."),
    ("pt", "Se a resposta é 5, está errada."),
    ("pt", "Qual é a resposta?"),
    ("it", "La risposta non è (A)."),
    ("it", "Se la risposta è 5, è sbagliata."),
    ("it", "Qual è la risposta?"),
    ("ru", "Какой ответ?"),
    ("ru", "Ответ неверный."),
    ("ru", "Ответ: неизвестен"),
    ("ru", "Если ответ: 5, то неверно."),
    ("ru", "Мы ищем ответ на вопрос."),
    ("ar", "ما هي الإجابة؟"),
    ("ar", "الإجابة هي ليست (A)."),
    ("fa", "پاسخ ۴۲ نیست."),
    ("hi", "उत्तर ४२ नहीं है।"),
]  # fmt: skip


class TestLanguages:
    @pytest.mark.parametrize(("language", "reply", "expected"), READ)
    def test_reply_has_the_expected_answer(self, language, reply, expected):
        assert extract_answer(reply) == expected

    @pytest.mark.parametrize(("language", "reply"), SILENT)
    def test_other_replies_are_unread(self, language, reply):
        assert extract_answer(reply) is None

    def test_every_language_has_rows_of_both_kinds(self):
        assert {row[0] for row in READ} == set(LANGUAGES)
        assert {row[0] for row in SILENT} | {"en"} == set(LANGUAGES)

    @pytest.mark.parametrize(("language", "reply", "expected"), [row for row in READ if row[2]])
    def test_marks_of_direction_change_nothing(self, language, reply, expected):
        assert extract_answer(f"\u202b{reply}\u202c\u200f") == expected

    @pytest.mark.parametrize(("language", "reply", "expected"), [row for row in READ if row[2]])
    def test_last_statement_decides_in_every_language(self, language, reply, expected):
        assert extract_answer(f"The answer is 99.\n{reply}") == expected
        assert extract_answer(f"{reply}\nThe answer is 99.") == "99"

    @pytest.mark.parametrize(("language", "reply", "expected"), [row for row in READ if row[2]])
    def test_reading_matches_itself(self, language, reply, expected):
        assert answers_match(extract_answer(reply), expected)

    @pytest.mark.parametrize(
        ("chain", "expected"),
        [
            ("3加4等于7。答案是7。", "3加4等于7。"),
            ("3足す4は7です。答えは7です。", "3足す4は7です。"),
            ("3 plus 4 ist 7. Die Antwort ist 7.", "3 plus 4 ist 7."),
            ("3+4=7，所以答案是7。", "3+4=7，"),
            ("3加4等于7。", "3加4等于7。"),
        ],
    )
    def test_reasoning_ends_before_the_conclusion(self, chain, expected):
        assert reasoning(chain) == expected
