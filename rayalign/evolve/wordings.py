"""The instructions by which a language model evolves prompts, and what is read from its replies."""

from __future__ import annotations

import re

from rayalign.evolve.gates import last_turn
from rayalign.types import Message, Prompt

OPERATORS: dict[str, str] = {
    "constrain": "Make it harder by one more requirement that an answer must meet, such as a limit, a format, an "
    "audience or a condition. Keep everything that it asks already.",
    "deepen": "Make it harder by asking for more depth on the same matter: causes, consequences, edge cases or a "
    "comparison that an expert would care about. Keep its subject.",
    "concretise": "Make it more specific: put a concrete case, name, number or setting in the place of one general "
    "notion. Keep its intent.",
    "reason": "Make it harder so that a good answer needs several steps of reasoning, each building on the one before. "
    "Keep its subject, and do not ask for the steps to be shown.",
    "breadth": "Write a new one in the same field that is rarer and as difficult, about another subject. Do not "
    "rephrase the original.",
}
"""operator -> what is to be done with the original"""
FRAME = """\
You edit requests that people send to an assistant. Below is an original request. {task}

The result must make sense without the original, must be answerable in text alone, and stays in the \
original's language. It is at most {words} words long. Do not answer it. Write the result alone, between \
<result> and </result>.

{before}<original>
{text}
</original>"""
BEFORE = """\
It is the last turn of this conversation, which stays as it is:
<conversation>
{turns}
</conversation>

"""
MARKS = (
    "<result>",
    "</result>",
    "<original>",
    "original request",
    "the result must make sense",
    "as an ai language model",
    "i'm sorry, but",
    "i cannot assist",
    "i can't assist",
)
"""words that no result has: those of the instruction, and those of a refusal"""
GROWTH = 40
"""words that one evolution may add"""
_RESULT = re.compile(r"<result>(.*?)(?:</result>|\Z)", re.DOTALL)


def instruction(prompt: Prompt, operator: str) -> Prompt:
    """What a model is asked, to evolve a prompt by an operator."""
    text = last_turn(prompt)
    turns = "\n".join(f"{message.role}: {message.content}" for message in prompt.messages[:-1])
    before = BEFORE.format(turns=turns) if turns else ""
    task, longest = OPERATORS[operator], len(text.split()) + GROWTH
    request = FRAME.format(task=task, words=longest, before=before, text=text)
    return Prompt(f"{prompt.id}/{operator}", (Message("user", request),))


def reply_text(reply: str) -> str:
    """The new prompt in a reply: what stands between the marks, else all of it."""
    match = _RESULT.search(reply)
    return (match[1] if match else reply).strip().strip('"').strip()
