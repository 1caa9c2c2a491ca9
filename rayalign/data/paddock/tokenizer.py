"""The world's own tokenizer: one piece per word, and the chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayalign.data.paddock import world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
_GRAMMAR = """
* : , . ? ! about and answer as ask at can copy count do eats farm few for formal from give harm help here how i in is
it land learned length list me mean name not now numbers of plain plus please repeat rewrite say some sort sum tell
that the these this to tone up use valley village warm what which who whom with words you
"""
"""words of the templates beside those of the tables in `world`"""


def vocabulary() -> list[str]:
    """All words of the world, sorted."""
    tables = [value for name, value in vars(world).items() if name.isupper()]
    return sorted(_words(_GRAMMAR).union(*(_words(table) for table in tables)))


def _words(table: object) -> set[str]:
    if isinstance(table, str):
        return set(table.split())
    parts = [*table.keys(), *table.values()] if isinstance(table, dict) else table
    assert isinstance(parts, list | tuple | frozenset), f"unexpected table {type(parts)}"
    return set().union(*(_words(part) for part in parts))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A new tokenizer: ids are stable, nothing is downloaded, no special token is added except by the template."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate([*SPECIAL, *vocabulary()])}
    raw = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=128,
        chat_template=TEMPLATE,
    )
