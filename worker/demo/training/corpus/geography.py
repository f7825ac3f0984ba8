"""The capitals of countries, and the countries of capitals."""

from __future__ import annotations

from worker.demo.training.corpus.document import Exchange
from worker.demo.training.corpus.draw import Draw
from worker.demo.training.corpus.phrasing import phrasings

_TABLE = (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Ireland:Dublin "
    "England:London Scotland:Edinburgh Wales:Cardiff Belgium:Brussels Austria:Vienna "
    "Switzerland:Bern Sweden:Stockholm Norway:Oslo Denmark:Copenhagen Finland:Helsinki "
    "Iceland:Reykjavik Poland:Warsaw Hungary:Budapest Greece:Athens Turkey:Ankara Russia:Moscow "
    "Ukraine:Kyiv Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade Croatia:Zagreb "
    "Slovenia:Ljubljana Slovakia:Bratislava Estonia:Tallinn Latvia:Riga Lithuania:Vilnius "
    "Malta:Valletta Cyprus:Nicosia Albania:Tirana Egypt:Cairo Morocco:Rabat Tunisia:Tunis "
    "Algeria:Algiers Kenya:Nairobi Ghana:Accra Nigeria:Abuja Senegal:Dakar Ethiopia:Addis_Ababa "
    "Uganda:Kampala Zambia:Lusaka Angola:Luanda Japan:Tokyo China:Beijing India:New_Delhi "
    "Nepal:Kathmandu Pakistan:Islamabad Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta "
    "South_Korea:Seoul Mongolia:Ulaanbaatar Iran:Tehran Iraq:Baghdad Israel:Jerusalem "
    "Lebanon:Beirut Syria:Damascus Jordan:Amman Qatar:Doha Australia:Canberra "
    "New_Zealand:Wellington Canada:Ottawa Mexico:Mexico_City Cuba:Havana Jamaica:Kingston "
    "Brazil:Brasilia Argentina:Buenos_Aires Chile:Santiago Peru:Lima Ecuador:Quito "
    "Colombia:Bogota Venezuela:Caracas Uruguay:Montevideo Paraguay:Asuncion"
)
CAPITALS: dict[str, str] = {
    country.replace("_", " "): city.replace("_", " ")
    for country, city in (pair.split(":") for pair in _TABLE.split())
} | {"the Netherlands": "Amsterdam", "the Philippines": "Manila", "the United States": "Washington"}

_CAPITAL_OF_HELD_OUT = (
    "Could you please name the capital city of {0}?",
    "Which city is {0}'s capital?",
    "I want to know what the capital of {0} is.",
    "Hello, what is the capital of {0}?",
)
_CAPITAL_OF = phrasings(
    (
        "What is the capital of {0}?",
        "What's the capital of {0}?",
        "What is {0}'s capital?",
        "Which city is the capital of {0}?",
        "What city is the capital of {0}?",
        "Name the capital of {0}.",
        "Tell me the capital of {0}.",
        "Please tell me the capital of {0}.",
        "Can you tell me the capital of {0}?",
        "Do you know the capital of {0}?",
        "Give me the capital city of {0}.",
        "What is the name of the capital of {0}?",
        "The capital of {0} is which city?",
        "I would like to know the capital of {0}.",
        "Capital of {0}?",
        "what is the capital of {0}",
        "The capital of {0}, please.",
    ),
    nouns=("the capital of {0}", "{0}'s capital", "the capital city of {0}"),
    clauses=("which city is the capital of {0}", "what the capital of {0} is"),
    without=_CAPITAL_OF_HELD_OUT,
)
_COUNTRY_OF = (
    "{0} is the capital of which country?",
    "Which country has the capital {0}?",
    "What country is {0} the capital of?",
    "Of which country is {0} the capital?",
    "{0} is the capital of what country?",
    "Name the country whose capital is {0}.",
    "Tell me the country whose capital is {0}.",
    "Which country's capital is {0}?",
    "Whose capital city is {0}?",
    "Do you know which country has the capital {0}?",
    "{0} is whose capital?",
    "Please tell me of which country {0} is the capital.",
)
_COUNTRY_OF_HELD_OUT = ("Tell me which country has the capital {0}.", "Whose capital is {0}?")


def capital(draw: Draw) -> Exchange:
    """The capital of a country, or more rarely the country of a capital."""
    country, city = draw.pick(tuple(CAPITALS.items()))
    if draw.chance(0.2):
        question = draw.phrase(_COUNTRY_OF, _COUNTRY_OF_HELD_OUT).format(city)
        return Exchange(question, f"{city} is the capital of {country}.", country)
    question = draw.phrase(_CAPITAL_OF, _CAPITAL_OF_HELD_OUT).format(country)
    return Exchange(question, f"The capital of {country} is {city}.", city)


_FOLLOW = ("And of {0}?", "And {0}?", "What about {0}?", "And what about {0}?", "And for {0}?")
_FOLLOW_HELD_OUT = ("How about {0}?", "And the capital of {0}?")


def follow_up(draw: Draw) -> list[Exchange]:
    """A capital, then one or two follow-up questions that only name a country."""
    exchanges = [capital(draw)]
    countries = draw.rng.sample(tuple(CAPITALS), 2)[: draw.number(1, 2)]
    for country in countries:
        question = draw.phrase(_FOLLOW, _FOLLOW_HELD_OUT).format(country)
        city = CAPITALS[country]
        exchanges.append(Exchange(question, f"The capital of {country} is {city}.", city))
    return exchanges
