"""Chat templates in the manner of families whose conversations differ from ChatML."""

from tests.models.templates import QWEN

# SmolLM3's manner: the first system message alone, without a word about others.
FIRST_SYSTEM_ONLY = (
    "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}"
    "<|im_end|>\n{% endif %}"
    "{% for message in messages if message.role != 'system' %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen 3.5's manner: a later system message is refused.
SYSTEM_AT_THE_BEGINNING = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}{% endfor %}"
) + QWEN

# Mistral's manner: users and assistants in turn, calls and results between them.
ALTERNATING = (
    "{% if messages[0].role == 'system' %}[SYSTEM]{{ messages[0].content }}[/SYSTEM]{% endif %}"
    "{% set others = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% set ns = namespace(index=0) %}"
    "{% for m in others if m.role == 'user' or m.role == 'assistant' and not m.tool_calls %}"
    "{% if (m.role == 'user') != (ns.index % 2 == 0) %}"
    "{{ raise_exception('The roles must alternate.') }}{% endif %}"
    "{% set ns.index = ns.index + 1 %}{% endfor %}"
    "{% if tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}"
    "{% for m in others %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[RESULT]{{ m.content }}[/RESULT]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "[CALL]{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}</s>"
    "{% else %}{{ raise_exception('unknown role') }}{% endif %}{% endfor %}"
)

# DeepSeek R1's manner: arguments are text, and tools are not rendered.
TEXT_ARGUMENTS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<call>' + call.function.name + '\n' + call.function.arguments + '</call>' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

# Tools are written into the system message, and where there is none nowhere.
TOOLS_IN_SYSTEM = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'system' and tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

# The same where the message has a text.
TOOLS_IN_SYSTEM_TEXT = TOOLS_IN_SYSTEM.replace("and tools", "and m.content and tools")

# Command R+'s manner: it reads the description of every property, and a list of tools always.
DESCRIBED_TOOLS = (
    "{% for tool in tools %}{{ tool.function.name + ': ' + tool.function.description }}("
    "{% for name, property in tool.function.parameters.properties | items %}"
    "{{ name + ' ' + property.description }}{% endfor %}){% endfor %}"
) + QWEN

# Firefunction's manner.
FUNCTIONS = "{{ functions + ' ' + datetime }}" + QWEN
