"""Chat templates render as transformers renders them, and can do no harm."""

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

import runtimes
from runtimes.artifact import Artifact
from runtimes.errors import ChatTemplateError
from runtimes.template import ChatTemplate, load_template

TINY = Path(runtimes.__file__).parents[1] / "export/models/tiny/chat_template.jinja"
TOOL = {"type": "function", "function": {"name": "weather", "description": "für «München» & <b>", "parameters": {}}}
USER = {"role": "user", "content": "  What is it like in München? "}
CALL = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "München", "days": 2}}}],
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, {"role": "assistant", "content": "Warm."}, {"role": "user", "content": "And tomorrow?"}],
    "reasoning": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nWarm."}, USER],
    "content_items": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    "tools": [USER, CALL, {"role": "tool", "content": '{"sky": "blue"}'}, {"role": "tool", "content": "x"}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}, {"enable_thinking": True}], ids=str)
def test_the_shipped_template_renders_as_in_transformers(name: str, options: dict[str, Any]) -> None:
    source = TINY.read_text()
    messages = CONVERSATIONS[name]
    tools = [TOOL] if name == "tools" else None
    theirs, _ = render_jinja_template(
        conversations=[messages], chat_template=source, tools=tools, add_generation_prompt=True, **options
    )
    assert ChatTemplate(source).render(messages, tools=tools, options=options) == theirs[0]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if loop.first %}\n  {{ m.content | trim }}\n  {% endif %}\n{% endfor %}\nend",
        "{{ {'a': 'ü<>&', 'b': [1, 2.5, none, true]} | tojson }} {{ messages | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %} {{ add_generation_prompt }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{{ strftime_now('%Y') }}",
    ],
)
def test_the_environment_is_that_of_transformers(source: str) -> None:
    messages = [USER, {"role": "assistant", "content": "ü"}]
    theirs, _ = render_jinja_template(conversations=[messages], chat_template=source, add_generation_prompt=True)
    assert ChatTemplate(source).render(messages) == theirs[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "does not compile: line 1"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{{ messages[7].content }}", "failed: UndefinedError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "failed: SecurityError"),
        ("{{ messages.append(1) }}", "failed: SecurityError"),
        ("{{ 1 / 0 }}", "failed: ZeroDivisionError"),
        ("{% for i in range(10000000) %}{% endfor %}", "failed: OverflowError"),
    ],
)
def test_a_bad_template_is_a_named_error(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(source).render([USER])


def test_special_tokens_are_known_by_name(onnx_artifact: Path) -> None:
    artifact = Artifact.open(onnx_artifact)
    template = load_template(artifact)
    assert template.render([USER]).startswith("<|im_start|>user\n")
    assert ChatTemplate("{{ eos_token }}", template._special_tokens).render([]) == "<|im_end|>"
