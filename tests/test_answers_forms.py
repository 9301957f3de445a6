"""
Tests of the forms of numbers, units, times and right answers: which of them are the same answer.

Each rule has rows on which it must stay silent. Every bug adds a row.
"""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_trl.answers import answers_match, extract_answer, reference_answer


THIN, NARROW, NO_BREAK = "\u2009", "\u202f", "\u00a0"
# Each row: reading, reference, whether they match. The other way round gives the same.
PAIRS = [
    # Separators of thousands and of decimals
    ("1 250 000", "1250000", True),
    (f"1{NO_BREAK}250{NO_BREAK}000", "1250000", True),
    (f"1{NARROW}250{NARROW}000", "1250000", True),
    (f"1{THIN}250{THIN}000", "1250000", True),
    ("1 250", "1250", True),
    ("1 250,50", "1250.5", True),
    ("1 250.50", "1250.5", True),
    ("-1 250", "-1250", True),
    ("$1 250", "1250", True),
    ("1 250 000 km", "1250000", True),
    ("12 50", "1250", False),
    ("1 25", "125", False),
    ("1 2500", "12500", False),
    ("1234 567", "1234567", False),
    ("12 345 6", "123456", False),
    ("100 200 300", "100, 200, 300", True),
    ("3 4 5", "345", False),
    ("1.234.567", "1234567", True),
    ("1.234.567,89", "1234567.89", True),
    ("1.234,5", "1234.5", True),
    ("1.234", "1.234", True),
    ("1.234", "1234", False),
    ("1.234", "1,234", False),
    ("1.23.456", "123456", False),
    ("0.123.456", "123456", False),
    ("1,25", "1.25", True),
    ("0,5", "1/2", True),
    ("0,125", "0.125", True),
    ("1,2345", "1.2345", True),
    ("3,14159", "3.14159", True),
    ("1,250", "1250", True),
    ("1,250", "1.25", False),
    ("1,25", "125", False),
    ("1,25,37", "12537", False),
    ("5, 6", "5.6", False),
    ("(1,25)", "1.25", False),
    ("[0,5]", "0.5", False),
    ("1'234'567", "1234567", True),
    ("1’234’567.5", "1234567.5", True),
    ("1'23", "123", False),
    ("1_000_000", "1000000", True),
    ("1_00", "100", False),
    ("12,34,567", "1234567", True),
    ("1,25,000", "125000", True),
    ("12,34,56", "123456", False),
    ("1,234,56", "123456", False),
    ("1,234.56", "1234.56", True),
    ("1.2.3", "123", False),
    ("1..5", "1.5", False),
    # Other digits and full-width forms
    ("４２", "42", True),
    ("１，２５０．５", "1250.5", True),
    ("٤٢", "42", True),
    ("١٬٢٥٠", "1250", True),
    ("٣٫٥", "3.5", True),
    ("٪٥٠", "50", False),
    ("٥٠٪", "50%", True),
    ("۴۲", "42", True),
    ("४२", "42", True),
    ("๔๒", "42", True),
    ("\u200f42\u200f", "42", True),
    ("\u202b٤٢\u202c", "42", True),
    ("\ufeff42", "42", True),
    ("4\u200b2", "42", True),
    ("\x0042", "42", True),
    ("٤٢", "24", False),
    # Signs
    ("-8°C", "-8", True),
    ("−8 °C", "-8°C", True),
    ("－８℃", "-8 °C", True),
    ("minus 8", "-8", True),
    ("negative 8", "-8", True),
    ("-8°C", "8°C", False),
    ("-8°C", "-8°F", False),
    ("8 °C", "8 degrees Celsius", True),
    ("8 degrees", "8°C", True),
    ("8°C", "46.4°F", False),
    ("8 °C", "8 km", False),
    # Currencies
    ("12 €", "12", True),
    ("€12", "12", True),
    ("12€", "€12", True),
    ("12,50 €", "€12.50", True),
    ("1.234,50 €", "1234.5", True),
    ("12 EUR", "€12", True),
    ("EUR 12", "12 euros", True),
    ("12 $", "$12", True),
    ("US$12", "12 dollars", True),
    ("$12 USD", "12", True),
    ("£12", "12 pounds", True),
    ("¥1,200", "1200円", True),
    ("₹12,34,567", "1234567", True),
    ("Rs. 500", "500", True),
    ("R$ 12", "12", True),
    ("12 CHF", "CHF 12", True),
    ("1 200 ₽", "1200 рублей", True),
    ("50 cents", "$0.50", True),
    ("350 cents", "$3.50", True),
    ("3 dollars and 50 cents", "$3.50", True),
    ("$5k", "5000", True),
    ("$2.5M", "2500000", True),
    ("12 €", "12 $", False),
    ("€12", "£12", False),
    ("50 cents", "50 dollars", False),
    ("12 €", "12 €/h", False),
    # Units and what is counted
    ("20 cups of feed in the final meal", "20", True),
    ("20 cups of feed in the final meal", "20 cups", True),
    ("20 cups of feed", "20 cups of water", False),
    ("20 cups of feed in the final meal of the day for the chickens", "20", True),
    ("20 cups and 3 spoons", "20", False),
    ("20 times as many cups of feed as in the first meal", "20", False),
    ("20 cups more than the other meals had to begin with", "20", False),
    ("20 cups is not enough for all the chickens of Wendi", "20", False),
    ("2 more than that", "2", False),
    ("12 years old", "12", True),
    ("12 years old", "144 months", True),
    ("12 feet long", "12 ft", True),
    ("5 red apples", "5", True),
    ("two dozen eggs", "24", True),
    ("2 dozen", "24 eggs", True),
    ("5 feet per second", "5 feet", False),
    ("3x", "3", False),
    ("5k", "5000", True),
    ("5M", "5000000", False),
    ("42 个", "42", True),
    ("42个苹果", "42", True),
    ("42개", "42", True),
    ("42 штуки", "42", True),
    ("3倍", "3", False),
    ("5万", "50000", True),
    ("1.5億円", "150000000", True),
    ("3万5千", "35000", False),
    ("3分之1", "3", False),
    ("5千克", "5000 g", True),
    # Units of one dimension
    ("2500 g", "2.5 kg", True),
    ("2,5 kg", "2500 grams", True),
    ("2.5kg", "2500g", False),  # a letter next to a digit may be algebra
    ("1 km", "1000 m", True),
    ("150 cm", "1.5 meters", True),
    ("1 foot", "12 inches", True),
    ("1 mile", "5280 feet", True),
    ("1 inch", "2.54 cm", True),
    ("5 miles", "8 km", False),
    ("2 L", "2000 ml", True),
    ("1 gallon", "16 cups", True),
    ("1 gallon", "3.785 L", False),
    ("1 lb", "16 oz", True),
    ("2 weeks", "14 days", True),
    ("1 year", "12 months", True),
    ("1 month", "30 days", False),
    ("1 ton", "1000 kg", False),
    ("1 GB", "1000 MB", False),
    ("36 km/h", "10 m/s", False),
    ("1 square meter", "10000 cm²", False),
    ("5 m²", "5 square meters", True),
    ("2 公里", "2000米", True),
    ("2 Stunden", "120 Minuten", True),
    ("2500 g", "25 kg", False),
    ("2500 g", "2.5 l", False),
    ("2500 g", "2500 kg", False),
    ("5 pounds", "80 ounces", True),
    # Durations
    ("1 hour 30 minutes", "90 minutes", True),
    ("1 hour and 30 minutes", "1.5 hours", True),
    ("1 hr 30 min", "90 min", True),
    ("1h 30m", "90 minutes", True),
    ("1h30", "90 minutes", True),
    ("1 hour, 30 minutes", "5400 seconds", True),
    ("2 days 3 hours", "51 hours", True),
    ("an hour and a half", "90 minutes", True),
    ("one and a half hours", "90 minutes", True),
    ("half an hour", "30 minutes", True),
    ("1 Stunde und 30 Minuten", "90 Minuten", True),
    ("1小时30分钟", "90分钟", True),
    ("1時間30分", "90分", True),
    ("5 feet 3 inches", "63 inches", True),
    ("1 hour 30 minutes", "90", False),
    ("1 hour 30 minutes", "1", False),
    ("1 hour 30 minutes", "130 minutes", False),
    ("1 hour 30 apples", "90 minutes", False),
    ("30 minutes 1 hour", "90 minutes", False),
    ("1 hour or 30 minutes", "90 minutes", False),
    # Times
    ("4:15 PM", "16:15", True),
    ("4:15 p.m.", "16:15", True),
    ("4:15pm", "4:15 PM", True),
    ("4.15 pm", "16:15", True),
    ("at 4:15 PM", "16:15", True),
    ("16.15 Uhr", "16:15", True),
    ("16 Uhr", "4 pm", True),
    ("16h15", "4:15 PM", True),
    ("4:15:00 PM", "16:15", True),
    ("下午4点15分", "16:15", True),
    ("16時15分", "4:15 PM", True),
    ("午後4時15分", "16:15", True),
    ("오후 4시 15분", "16:15", True),
    ("下午4点半", "16:30", True),
    ("5 pm", "17:00", True),
    ("5 pm", "5", True),
    ("5 in the afternoon", "17:00", True),
    ("5 o'clock", "5:00", True),
    ("5 o'clock", "5 pm", True),
    ("noon", "12:00 PM", True),
    ("12 noon", "12:00", True),
    ("midnight", "12:00 AM", True),
    ("midnight", "00:00", True),
    ("midnight", "24:00", True),
    ("12 AM", "0:00", True),
    ("half past four", "4:30", True),
    ("quarter to five", "4:45", True),
    ("4:15", "4:15 PM", True),
    ("4:15", "4:15 AM", True),
    ("4:15", "16:15", False),
    ("04:15", "4:15 PM", False),
    ("4:15 PM", "4:15 AM", False),
    ("4:15 PM", "4:16 PM", False),
    ("noon", "midnight", False),
    ("12 AM", "noon", False),
    ("16:15", "16", False),
    ("4:15 PM", "4", False),
    ("4:15", "4.25", False),
    ("3:2", "3", False),
    ("17:00", "5", False),
    ("25:00", "1:00", False),
    ("5 pm to 6 pm", "5 pm", False),
    ("5 hours", "5 pm", False),
    ("16 h", "16 hours", True),
    # Scientific forms
    ("3 x 10^8", "300000000", True),
    ("3 × 10^8", "3e8", True),
    ("3×10⁸", "300,000,000", True),
    ("3 * 10^8", "3*10^{8}", True),
    ("3 \\times 10^8", "3 × 10^8", True),
    ("$3 \\times 10^{8}$", "3e8", True),
    ("3 \\cdot 10^{-3}", "0.003", True),
    ("3·10⁻³", "0.003", True),
    ("10^6", "1000000", True),
    ("1e3", "1000", True),
    ("2.5E-3", "0.0025", True),
    ("3 x 10^8 m/s", "3e8", True),
    ("$3 \\times 10^8$ m/s", "3e8", True),
    ("$5$ meters", "5 m", True),
    ("$5 or $6", "$5", False),
    ("-3 x 10^8", "-300000000", True),
    ("3 x 10^8", "3 x 10^7", False),
    ("3 x 10^8", "38", False),
    ("3 x 10", "30", False),
    ("3 x 108", "3 x 10^8", False),
    ("1e3", "13", False),
    ("10^8", "108", False),
    ("1e999999", "5", False),
    # Fractions and percent
    ("½", "0.5", True),
    ("2½", "2.5", True),
    ("2 ½ cups", "5/2", True),
    ("50 Prozent", "50%", True),
    ("50 per cent", "0.5", True),
    ("50 percent of the cups", "50%", True),
    ("50%", "50 km", False),
    ("1/2", "12", False),
    ("1/2/3", "1/6", False),
    # Numbers in words
    ("twenty-four", "24", True),
    ("twenty four apples", "24", True),
    ("one hundred and twenty", "120", True),
    ("two thousand five hundred", "2500", True),
    ("fifteen", "15", True),
    ("one of them", "1", True),
    ("five six", "56", False),
    ("five six", "11", False),
    ("twenty twenty", "40", False),
    # Dates
    ("2021年5月1日", "05/01/2021", True),
    ("2021년 5월 1일", "05/01/2021", True),
    ("2021年5月1日", "05/02/2021", False),
    # Verdicts in other languages
    ("ja", "yes", True),
    ("Sí", "yes", True),
    ("нет", "no", True),
    ("是的", "是", True),
    ("否", "no", True),
    ("はい", "yes", True),
    ("アニメ", "yes", False),
    ("아니요", "no", True),
    ("vrai", "true", True),
    ("falso", "false", True),
    ("ja", "true", False),
    ("oui", "non", False),
    ("是", "否", False),
    ("jabber", "ja", False),
    ("nono", "no", False),
    # Right answers as released
    ("18", "#### 18", True),
    ("18", "9 * 2 = <<9*2=18>>18\n#### 18", True),
    ("17", "9 * 2 = <<9*2=18>>18\n#### 18", False),
    ("1,000", "so 1000.\n#### 1,000", True),
    ("\\frac{1}{2}", "We get $x = \\boxed{\\frac{1}{2}}$.", True),
    ("0.5", "We get $x = \\boxed{\\frac{1}{2}}$.", True),
    ("2", "We get $x = \\boxed 2$.", True),
    ("(B)", "\\boxed{\\text{(B)}}", True),
    ("3", "First \\boxed{2}, then \\boxed{3}.", True),
    ("2", "First \\boxed{2}, then \\boxed{3}.", False),
    ("5", "Therefore, the answer is 5.", True),
]  # fmt: skip


class TestForms:
    @pytest.mark.parametrize(("answer", "reference", "expected"), PAIRS)
    def test_pair_matches_or_differs_in_both_orders(self, answer, reference, expected):
        assert answers_match(answer, reference) is expected
        assert answers_match(reference, answer) is expected

    @given(st.integers(0, 10**15))
    def test_all_separators_of_a_number_mean_the_same(self, number):
        grouped = f"{number:,}"
        forms = [grouped, *(grouped.replace(",", separator) for separator in (" ", "'", "’", "_", NO_BREAK, THIN))]
        forms += [grouped.replace(",", ".")] * (number >= 10**6)
        for form in forms:
            assert answers_match(form, str(number))
            assert not answers_match(form, str(number + 1))

    @given(st.integers(0, 23), st.integers(0, 59))
    def test_a_time_matches_its_other_form_and_no_other_minute(self, hour, minute):
        half = f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}"
        assert answers_match(half, f"{hour:02}:{minute:02}")
        other = (hour + 12) % 24
        if other > 12 or other < 10:  # "10:15" may be in either half of the day
            assert not answers_match(half, f"{other:02}:{minute:02}")
        assert not answers_match(half, f"{hour:02}:{(minute + 1) % 60:02}")

    @given(st.integers(1, 99), st.integers(1, 59))
    def test_a_duration_matches_its_minutes(self, hours, minutes):
        duration, total = f"{hours} hours {minutes} minutes", 60 * hours + minutes
        assert answers_match(duration, f"{total} minutes")
        assert not answers_match(duration, f"{total + 1} minutes")

    @given(st.integers(1, 10**6), st.integers(-9, 9))
    def test_a_scientific_form_matches_its_value(self, mantissa, power):
        value = str(Fraction(mantissa) * Fraction(10) ** power)
        for form in (f"{mantissa} x 10^{power}", f"{mantissa}e{power}", f"{mantissa} \\times 10^{{{power}}}"):
            assert answers_match(form, value)

    @given(st.from_regex(r"[0-9]{1,4}([.,' ][0-9]{1,4}){0,4}", fullmatch=True))
    def test_digits_with_separators_are_read_as_one_of_their_possible_values(self, text):
        """No digit gets lost: the value times a power of ten has the digits of the text."""
        digits = "".join(filter(str.isdigit, text))
        for value in {"".join(digits), *(f"{digits[:i]}.{digits[i:]}" for i in range(1, len(digits)))}:
            if answers_match(text, value):
                break
        else:
            assert not answers_match(text, "0." + digits)


RELEASED = [
    ("18", "18"),
    (" Paris ", "Paris"),
    ("9 * 2 = 18\n#### 18", "18"),
    ("9 * 2 = 18\n#### 1,800", "1,800"),
    ("We have \\boxed{\\dfrac{3}{4}}.", "\\dfrac{3}{4}"),
    ("no, onion, pear", "no, onion, pear"),
    ("(A) or (B)", "(A) or (B)"),
    ("42 apples because of rain", "42 apples because of rain"),
    ("- Yes", "- Yes"),
    (42, "42"),
    (42.0, "42"),
    (0.5, "0.5"),
    (-3, "-3"),
    (True, "True"),
    (False, "False"),
    (np.int64(42), "42"),
    (np.float32(0.5), "0.5"),
    (np.float64(7), "7"),
    (np.bool_(True), "True"),
    (Decimal("42.00"), "42"),
    (Decimal("0.25"), "0.25"),
    (1e20, "100000000000000000000"),
]


class TestReferenceAnswer:
    @pytest.mark.parametrize(("released", "expected"), RELEASED)
    def test_released_form_has_the_expected_answer(self, released, expected):
        assert reference_answer(released) == expected
        assert answers_match(expected, reference_answer(released))

    @pytest.mark.parametrize("released", ["", " \n", math.nan, math.inf])
    def test_nothing_to_compare_with_is_an_error(self, released):
        with pytest.raises(ValueError, match="[Ll]eave (it|the question) out"):
            reference_answer(released)

    @pytest.mark.parametrize("released", [None, ["a", "b"], {"value": 5}])
    def test_what_is_no_answer_is_an_error(self, released):
        with pytest.raises(TypeError, match="must be text or a number"):
            reference_answer(released)


class TestDecimalCommas:
    """`1.234` and `1,234` mean what the rest of the reply means by them."""

    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            ("Die Antwort ist 1.234.", "1234"),
            ("Die Antwort ist 1.234 Euro.", "1234 Euro"),
            ("0.5 + 0.734 = 1.234. Die Antwort ist 1.234.", "1.234"),
            ("12,5 kg mal 100 sind 1.250 kg. Die Antwort ist 1.250 kg.", "1250 kg"),
            ("La réponse est 1,250.", "1.250"),
            ("2.5 * 500 = 1,250. La réponse est 1,250.", "1,250"),
            ("La respuesta es 1,250.", "1,250"),
            ("La respuesta es 1.250.", "1250"),
            ("Die Antwort ist 0.125.", "0.125"),
            ("The answer is 1.234.", "1.234"),
            ("The answer is 1,234.", "1,234"),
            ("The points (0,5) and (3,4) give the line. The answer is 1,234.", "1,234"),
            ("1.000,5 + 233,5 = 1.234. The answer is 1.234.", "1234"),
            ("1,000.5 + 233.5 = 1,234. The answer is 1,234.", "1,234"),
            ("答案是1,234。", "1,234"),
        ],
    )
    def test_reading_follows_the_other_numbers_or_the_language(self, reply, expected):
        assert extract_answer(reply) == expected
