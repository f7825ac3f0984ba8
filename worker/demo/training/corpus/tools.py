"""Random tool definitions, each with a request for the tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Tool
from worker.demo.training.corpus.draw import Draw

UNSEEN_SUBJECT = "weather"  # in no definition: it is for evaluation only

SUBJECTS = words.listed(
    "forecast temperature time traffic news price ticket hotel flight train bus taxi meeting "
    "event holiday reminder alarm timer note message mail report score recipe meal table order "
    "invoice payment balance account user contact address route map distance photo song playlist "
    "film book page file folder task project issue ticket light lamp heater door window camera "
    "room stock share rate rank tide sunrise air pollen water power humidity noise level status "
    "version package parcel sensor robot printer screen volume channel menu garden plant"
)
_LOOKING = words.listed(
    "get get get get find show read check fetch search lookup query load tell view list request "
    "retrieve pull see scan inspect ask give report obtain current"
)
_DOING = words.listed(
    "send create book set add make start open order write schedule cancel stop close update "
    "delete remove play post save move plan"
)
_LOOK_ASKED = (
    "What is the {0}{1}?", "What's the {0}{1}?", "Tell me the {0}{1}.", "Show me the {0}{1}.",
    "Get the {0}{1}.", "Find the {0}{1}.", "I need the {0}{1}.", "Please check the {0}{1}.",
    "Can you tell me the {0}{1}?", "How is the {0}{1}?", "Look up the {0}{1}.",
    "I want to know the {0}{1}.", "what is the {0}{1}", "What is the {0} like{1}?",
    "What's the {0} like{1} now?", "How's the {0}{1}?", "The {0}{1}, please.", "{0}{1}?",
    "I would like to know the {0}{1}.", "Do you know the {0}{1}?", "What is the {0}{1} today?",
    "Could you find the {0}{1}?", "Please get the {0}{1}.", "Can you get me the {0}{1}, please?",
    "Could you show me the {0}{1}?", "Please show me the {0}{1}.", "Tell me about the {0}{1}.",
    "Which {0} is there{1}?", "How is the {0}{1} right now?", "Check the {0}{1}.",
)  # fmt: skip
_LOOK_HELD_OUT = (
    "Could you look up the {0}{1}?",
    "Please tell me the {0}{1}.",
    "Give me the {0}{1}.",
)
_DO_ASKED = (
    "{2} a {0}{1}.", "Please {2} a {0}{1}.", "Can you {2} a {0}{1}?", "I want to {2} a {0}{1}.",
    "I need you to {2} a {0}{1}.", "{2} the {0}{1}.", "{2} a {0}{1}, please.",
    "I would like to {2} a {0}{1}.", "Can you {2} the {0}{1} for me?", "Now {2} a {0}{1}.",
    "Could you please {2} a new {0}{1}?", "{2} a new {0}{1}.", "Let us {2} the {0}{1}.",
)  # fmt: skip
_DO_HELD_OUT = ("Could you {2} a {0}{1}?", "Please {2} the {0}{1}.")


@dataclass(frozen=True)
class Parameter:
    """A parameter, its JSON schema, its value in the request, and the words for the value."""

    name: str
    schema: dict[str, Any]
    value: Any
    spoken: str


@dataclass(frozen=True)
class Request:
    """A tool, and a question of the user that needs it."""

    tool: Tool
    subject: str
    looks_up: bool
    arguments: dict[str, Any]
    question: str
    spoken: str

    @property
    def name(self) -> str:
        """The name of the tool."""
        return str(self.tool["function"]["name"])


def _schema(draw: Draw, kind: str, text: str, **more: Any) -> dict[str, Any]:
    described = {"description": text} if draw.chance(0.6) else {}
    fields = list(({"type": kind} | described | more).items())
    if draw.chance(0.25):
        draw.rng.shuffle(fields)
    return dict(fields)


def _named(draw: Draw, names: tuple[str, ...]) -> str:
    """A common name of a parameter, or an invented one."""
    return draw.pick(names) if draw.chance(0.8) else _new(draw)


def _place(draw: Draw) -> Parameter:
    name = _named(
        draw, ("city", "city", "location", "place", "town", "destination", "region", "where")
    )
    value = draw.value(words.city)
    text = draw.pick((f"The {name}", "The name of the city", f"Name of the {name}", "Where"))
    spoken = draw.pick((" in {0}", " in {0}", " for {0}", " at {0}", " near {0}"))
    return Parameter(name, _schema(draw, "string", text), value, spoken.format(value))


def _person(draw: Draw) -> Parameter:
    name = _named(draw, ("name", "person", "recipient", "to", "user", "contact", "guest", "owner"))
    value = draw.value(words.person)
    spoken = draw.pick((" for {0}", " to {0}", " with {0}", " of {0}")).format(value)
    return Parameter(name, _schema(draw, "string", f"The {name}"), value, spoken)


def _day(draw: Draw) -> Parameter:
    name, value = _named(draw, ("day", "date", "when")), draw.pick(words.DAYS)
    return Parameter(name, _schema(draw, "string", "The day"), value, f" on {value}")


def _number(draw: Draw) -> Parameter:
    name = draw.pick(
        ("count", "number", "amount", "limit", "size", "id", "hours", "level", "floor")
    )
    value = draw.number(1, 99) if draw.chance(0.8) else draw.number(100, 9999)
    spoken = draw.pick((f" with {name} {value}", f", {name} {value}", f" and {name} {value}"))
    kind = draw.pick(("integer", "integer", "number"))
    return Parameter(name, _schema(draw, kind, f"The {name}"), value, spoken)


def _text(draw: Draw) -> Parameter:
    name = _named(draw, ("text", "title", "message", "query", "label", "subject", "topic"))
    value = draw.value(words.label)
    form = draw.pick((' saying "{0}"', ' called "{0}"', ' about "{0}"', " about {0}"))
    return Parameter(name, _schema(draw, "string", f"The {name}"), value, form.format(value))


def _choice(draw: Draw) -> Parameter:
    name = draw.pick(("unit", "mode", "kind", "color", "format"))
    options = draw.rng.sample(words.COLOURS, 2)
    if name != "color":
        options = ["celsius", "fahrenheit"] if draw.chance(0.4) else [_new(draw), _new(draw)]
    value = draw.pick(options)
    schema = _schema(draw, "string", f"The {name}", enum=options)
    return Parameter(name, schema, value, f" in {value}" if draw.chance(0.6) else f" with {value}")


def _new(draw: Draw) -> str:
    return draw.value(words.invented)


def _unusual(draw: Draw) -> Parameter:
    name = _new(draw)
    value: str | int = draw.number(1, 999) if draw.chance(0.3) else draw.value(words.thing)
    kind = "integer" if isinstance(value, int) else "string"
    return Parameter(name, _schema(draw, kind, f"The {name}"), value, f" with {name} {value}")


_KINDS: tuple[Callable[[Draw], Parameter], ...] = (
    _place, _place, _place, _person, _day, _number, _text, _choice, _unusual, _unusual,
)  # fmt: skip


def _parameters(draw: Draw) -> list[Parameter]:
    count = draw.pick((1, 1, 1, 1, 2, 2, 3)) if draw.chance(0.96) else 0
    kinds = draw.rng.sample(_KINDS, count)
    return list({p.name: p for p in (kind(draw) for kind in kinds)}.values())


def _name(draw: Draw, verb: str, subject: str) -> str:
    words_of_name = (verb, *subject.split())
    style = draw.rng.random()
    if style < 0.7:
        return "_".join(words_of_name)
    if style < 0.85:
        return verb + "".join(word.capitalize() for word in words_of_name[1:])
    if style < 0.95:
        return "_".join((*subject.split(), verb))
    return f"{draw.pick(('api', 'app', 'home', 'my'))}_{'_'.join(words_of_name)}"


def _subject(draw: Draw) -> str:
    def write(rng: Any) -> str:
        noun = str(rng.choice(SUBJECTS)) if rng.random() < 0.5 else words.thing(rng)
        return f"{words.thing(rng)} {noun}" if rng.random() < 0.25 else noun

    return draw.value(write)


def _description(draw: Draw, verb: str, subject: str, parameters: list[Parameter]) -> str:
    text = f"{verb.capitalize()} {draw.pick(('the', 'a'))} {subject}"
    if parameters and draw.chance(0.5):
        text += f" {draw.pick(('for', 'by', 'with'))} a {parameters[0].name}"
    return text + draw.pick((".", ""))


def _definition(name: str, text: str, properties: dict[str, Any], required: list[str]) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": text, "parameters": schema}
    return {"type": "function", "function": function}


def _vary(draw: Draw, tool: Tool) -> Tool:
    """The tool with changes in its definition, as clients write them."""
    function = dict(tool["function"])
    schema = dict(function["parameters"])
    if draw.chance(0.15):
        schema["additionalProperties"] = False
    if draw.chance(0.15):
        del schema["required"]
    function["parameters"] = schema
    if draw.chance(0.15):
        del function["description"]
    if draw.chance(0.1):
        function["strict"] = True
    return {"type": "function", "function": function}


def request(draw: Draw) -> Request:
    """A new tool with up to three parameters in use, and a request that needs it."""
    looks_up = draw.chance(0.65)
    verb = draw.pick(_LOOKING if looks_up else _DOING) if draw.chance(0.85) else _new(draw)
    subject = _subject(draw)
    given = _parameters(draw)
    declared = list(given)
    if draw.chance(0.45):
        extra = draw.pick((_choice, _choice, _number, _day))(draw)
        declared += [extra] if extra.name not in {p.name for p in given} else []
    tool = _definition(
        _name(draw, verb, subject),
        _description(draw, verb, subject, given),
        {p.name: p.schema for p in declared},
        [p.name for p in given],
    )
    spoken = "".join(p.spoken for p in given)
    forms = (
        draw.phrase(_LOOK_ASKED, _LOOK_HELD_OUT)
        if looks_up
        else draw.phrase(_DO_ASKED, _DO_HELD_OUT)
    )
    question = forms.format(subject, spoken, verb)
    arguments = {p.name: p.value for p in given}
    question = question[0].upper() + question[1:] if draw.chance(0.9) else question
    return Request(_vary(draw, tool), subject, looks_up, arguments, question, spoken)
