"""
Units of measurement that can be compared with others of the same dimension, in several languages.

A table of our own instead of a package: `pint` and `quantulum3` are made for texts that are known to hold a
= quantity.
They read "5 a" as years and "1 hour 30 minutes" as an hour and minutes of arc, and quantulum3 takes a second
= to load.

The table stops at exact factors within one dimension. What it leaves out on purpose:

- temperatures: 8 °C is not compared with 46.4 °F;
- a month or a year in days, because months differ;
- tons, which are not the same everywhere, and gallons, cups and spoons in litres for the same reason;
- bytes, which have two sizes of kilo; money of one country in money of another;
- rates, areas and volumes made of other units (km/h, square feet). They match only the same unit.
"""

from fractions import Fraction


# One line per unit: how many of the first unit of its dimension it is, its name, and other ways to write it. "=" goes
# on with the line before. Plural "s" and "es" need no entry. Ways of more than one word have "_" for the space.
_TABLE = """
length
1 meter m metre metro метр метра метров м 米 公尺 メートル 미터 mètre متر मीटर
1000 kilometer km kilometre kilómetro kilometro quilômetro quilómetro chilometro chilometri километр километра
= километров км 公里 千米 キロメートル キロ 킬로미터 kilomètre كيلومتر किलोमीटर
1/10 decimeter dm decimetre 分米
1/100 centimeter cm centimetre centímetro centimetro centimetri zentimeter сантиметр сантиметра сантиметров см
= 厘米 公分
= センチメートル センチ 센티미터 centimètre سنتيمتر सेंटीमीटर
1/1000 millimeter mm millimetre milímetro millimetro millimetri миллиметр миллиметра миллиметров мм 毫米
= ミリメートル 밀리미터 millimètre
1/1000000 micrometer µm μm micrometre micron
127/5000 inch in inches zoll pouce pulgada polegada pollici
381/1250 foot ft feet fuß fuss pied pie
1143/1250 yard yd yds
201168/125 mile mi meile meilen milla milha miglia миля мили миль 英里 マイル 마일

mass
1 gram g gr gramme gramm gramo grama grammo grammi грамм грамма граммов г 克 グラム 그램 غرام ग्राम
1000 kilogram kg kilo kilogramme kilogramm kilogramo kilogramma quilograma quilo chilogrammo chilogrammi chilo
= килограмм килограмма килограммов кг 千克 公斤 キログラム 킬로그램 كيلوغرام किलोग्राम
1/1000 milligram mg milligramme milligramm miligramo miligrama milligrammo мг 毫克 ミリグラム 밀리그램
1000000 tonne metric_ton metric_tonne
45359237/100000 pound lb lbs
45359237/1600000 ounce oz

time
1 second s sec secs sekunde sekunden seconde segundo secondo secondi секунда секунды секунд сек с 秒 秒钟 秒鐘
= 초 ثانية
= सेकंड
60 minute min mins minuten minuto minuti минута минуты минут мин 分 分钟 分鐘 分間 분 دقيقة मिनट
3600 hour h hr hrs stunde stunden std heure hora ora ore час часа часов ч 小时 小時 个小时 個小時 时间 時間
= 시간 ساعة घंटे घंटा
86400 day tag tage tagen jour día dia giorno giorni день дня дней 天 日 日間 일 يوم दिन
604800 week wk wks woche wochen semaine semana settimana settimane неделя недели недель 周 週 星期 个星期 週間
= 주
= أسبوع सप्ताह

calendar
1 month mo mos monat monate monaten mois mes meses mese mesi mês месяц месяца месяцев 月 个月 個月 か月 ヶ月
= カ月 개월 달
= شهر महीने
12 year yr yrs jahr jahre jahren an année año ano anno anni год года лет 年 年間 년 سنة साल वर्ष
120 decade jahrzehnt décennie década decennio
1200 century centuries jahrhundert siècle siglo século secolo

volume
1 liter l litre litro litri литр литра литров л 升 公升 リットル 리터 لتر लीटर
1/1000 milliliter ml millilitre mililitro millilitro millilitri миллилитр миллилитра миллилитров мл 毫升
= ミリリットル 밀리리터
= cc
1/100 centiliter cl centilitre
1/10 deciliter dl decilitre

volume_of_the_kitchen
1 fluid_ounce fl_oz
8 cup
16 pint pt pts
32 quart qt qts
128 gallon gal gals
1/2 tablespoon tbsp
1/6 teaspoon tsp

money_of_the_dollar
1 dollar $ usd us$ dólar dólares dollaro dollari доллар доллара долларов 美元 ドル 달러 دولار
1/100 cent ¢ céntimo centavo centesimi 美分

money_of_the_pound
1 pound_sterling £ gbp sterling
1/100 penny pence p

energy
1 joule j
1000 kilojoule kj

power
1 watt w
1000 kilowatt kw

data_rate_and_frequency
1 hertz hz
1000 kilohertz khz
1000000 megahertz mhz
1000000000 gigahertz ghz
"""

# Units that are compared only with themselves, in all their forms.
_FORMS = """
percent % percentage_point prozent pour_cent por_ciento por_cento per_cento per_cent процент процента
= процентов 퍼센트
= パーセント प्रतिशत
permille ‰
degree ° deg grad degré grado grau gradi градус градуса градусов 度 도
degree_celsius °c celsius degrees_celsius degree_c degrees_c grad_celsius degrés_celsius градусов_цельсия ℃
= 摄氏度
degree_fahrenheit °f fahrenheit degrees_fahrenheit degree_f degrees_f ℉ 华氏度
euro € eur евро 欧元 ユーロ 유로 يورو
yen ¥ jpy 円 日元 엔
yuan cny rmb 元 块 块钱 人民币 renminbi
won ₩ krw 원
rupee ₹ inr rs रुपये
ruble ₽ rub рубль рубля рублей руб
franc chf franken
real r$ reais brl
square_meter m² m^2 square_metre sq_m quadratmeter mètre_carré metro_cuadrado metro_quadrado квадратных_метров
= 平方米
= 平方メートル
square_kilometer km² km^2 square_kilometre sq_km quadratkilometer 平方公里 平方千米
square_centimeter cm² cm^2 square_centimetre sq_cm quadratzentimeter 平方厘米
square_foot ft² ft^2 square_feet sq_ft
square_inch in² in^2 sq_in
cubic_meter m³ m^3 cubic_metre kubikmeter 立方米
cubic_centimeter cm³ cm^3 cubic_centimetre cu_cm kubikzentimeter 立方厘米
cubic_foot ft³ ft^3 cubic_feet cu_ft
mile_per_hour mph miles_per_hour mi/h
kilometer_per_hour km/h kph kmh kilometers_per_hour kilometres_per_hour
meter_per_second m/s meters_per_second metres_per_second
"""


def unit_key(words: str) -> str:
    """
    Return the form of a unit under which the tables have it.

    Args:
        words (`str`):
            Unit in lower case.

    Returns:
        `str`: The words without periods and without the "s" and "e" of a plural.

    Examples:

    ```python
    >>> unit_key("square inches") == unit_key("square inch")
    True

    ```
    """
    keys = []
    for word in words.replace(".", "").replace("_", " ").split():
        for letter in "ses":  # mile and miles, inch and inches, glass and glasses
            shorter = word.rstrip(letter)
            word = shorter if len(shorter) > 2 else word  # "s" and "mes" are units
        keys.append(word)
    return " ".join(keys)


def _rows(table: str) -> list[list[str]]:
    """Return the words of each row. A row goes on after "="."""
    return [line.split() for line in table.replace("\n=", "").splitlines()]


def _convertible() -> tuple[dict[str, str], dict[str, tuple[str, Fraction]]]:
    names: dict[str, str] = {}
    sizes: dict[str, tuple[str, Fraction]] = {}
    dimension = ""
    for row in _rows(_TABLE):
        if len(row) == 1:
            dimension = row[0]
        elif row:
            size, name, *forms = row
            sizes[name] = dimension, Fraction(size)
            names.update((unit_key(form), name) for form in (name, *forms))
    for name, *forms in filter(None, _rows(_FORMS)):
        names.update((unit_key(form), name) for form in (name, *forms))
    return names, sizes


# The name of each way to write a unit; and the dimension and the size of the units that can be converted.
UNIT_NAMES, UNIT_SIZES = _convertible()
# Units that may follow a number without a space. Single letters may not: 5m may be algebra.
ATTACHED_UNITS = {
    *(
        "km",
        "cm",
        "mm",
        "dm",
        "kg",
        "mg",
        "ml",
        "cl",
        "dl",
        "lb",
        "lbs",
        "oz",
        "ft",
        "hr",
        "hrs",
        "min",
        "mins",
        "sec",
    ),
    *("mph", "kph", "km/h", "km²", "cm²", "m²", "m³", "cm³", "kw", "khz", "mhz", "ghz", "hz", "usd", "eur", "m/s"),
}
