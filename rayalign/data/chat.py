"""Dialogues to token ids and back, by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from rayalign.data.control_tokens import marked, token_ids
from rayalign.data.templates import DEFAULT_TEMPLATE as DEFAULT_TEMPLATE
from rayalign.data.templates import template_text
from rayalign.data.tokenizer_files import check_ids, tokenizer_class, vocabulary_of
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, context: int, reserve: int
) -> tuple[int, ...] | None:
    """Token ids up to where the answer begins; None where even the last turn leaves no room for `reserve` tokens.

    An over-long dialogue loses its oldest turns, as `cut_to_fit` does.
    """
    fitting = _fitting(tokenizer, prompt, context - reserve)
    return None if fitting is None else fitting[1]


def cut_to_fit(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, limit: int) -> Prompt | None:
    """The prompt in at most `limit` tokens: without its oldest turns, opening with a user turn.

    A system turn at the front is kept; None where even the last turn is too long.
    """
    fitting = _fitting(tokenizer, prompt, limit)
    return None if fitting is None else fitting[0]


def _fitting(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, limit: int) -> tuple[Prompt, tuple[int, ...]] | None:
    """What `cut_to_fit` returns, with its token ids: whoever needs both need not render the dialogue twice."""
    system = tuple(m for m in prompt.messages[:1] if m.role == "system")
    opens = [i for i, m in enumerate(prompt.messages) if m.role == "user" or i == len(system)]
    for start in opens:
        messages = (*system, *prompt.messages[start:])
        cut = prompt if messages == prompt.messages else Prompt(prompt.id, messages, prompt.meta)
        token_ids = prompt_ids(tokenizer, cut)
        if len(token_ids) <= limit:
            return cut, token_ids
    return None


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Prompt and answer as token ids, and a mask of the answer's, which are trained on.

    The answer ends with its end token; nothing of the template follows. The prompt's ids are those that a policy reads
    in a rollout, and the answer's come after them; see `encode_continuation`.
    """
    dialogue = (*prompt.messages, Message("assistant", answer))
    closing = str(tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)[0]))
    before, whole = _render(tokenizer, prompt.messages, True), _render(tokenizer, dialogue, False)
    written = marked(tokenizer, answer)
    if whole.startswith(before) and written.strip() not in whole[len(before) :]:
        whole = before + written + closing  # the template leaves out a part, such as what a model thought
    end = whole.rfind(closing) + len(closing)
    if not whole.startswith(before) or end < len(before) + len(closing):
        raise InputError(f"chat template: an answer must follow its prompt as it is, closed by {closing}; {_REMEDY}")
    head, tail = encode_continuation(tokenizer, before, whole[len(before) : end])
    return (*head, *tail), (*[False] * len(head), *[True] * len(tail))


def encode_continuation(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a text, and of what follows it, without tokens that the tokenizer adds by itself.

    Both are tokenised as one, since SentencePiece tokenises a text alone as if a space came before it. Where a piece
    spans the boundary, what follows is tokenised as after an end token, which no piece spans.
    """
    head, whole = _encode(tokenizer, before), _encode(tokenizer, before + text)
    if whole[: len(head)] == head:
        return head, whole[len(head) :]
    return head, token_ids(tokenizer, text, after_end=True)


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an answer: what the template closes an assistant turn with, and the end of sequence.

    Raises:
        InputError: the tokenizer has neither.
    """
    user, assistant = Message("user", "a"), Message("assistant", "b")
    before, whole = _render(tokenizer, [user], True), _render(tokenizer, [user, assistant], False)
    added = tokenizer.added_tokens_decoder
    after = whole[len(before) :].partition(assistant.content)[2]
    closing = [i for i in _encode(tokenizer, after) if i in added and added[i].special][:1]
    end_ids = dict.fromkeys(i for i in (*closing, tokenizer.eos_token_id) if i is not None)
    if not end_ids:
        raise InputError("tokenizer: neither its template nor its settings have an end token; set `eos_token`")
    return tuple(end_ids)


def decode_answer(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The answer's text, without special tokens and outer white space."""
    ids = list(token_ids)
    if tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces:
        # What `decode` comes to here, without its look at the type of each token, which costs three times as much.
        return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Prove at the start that an answer follows its prompt as it is, and that no piece spans the two.

    Earlier turns may change once a turn follows them: reasoning models leave out what they thought. Only a dialogue
    that is written turn by turn needs more, see `check_turns`.

    Raises:
        InputError: there is no template, or it cannot be trained on; with the remedy.
    """
    if tokenizer.chat_template is None:
        raise InputError(f"has no chat template; {_REMEDY}")
    dialogue = _probe()
    for index in (1, 3):
        ids, _ = encode_example(tokenizer, Prompt("probe", tuple(dialogue[:index])), dialogue[index].content)
        together = _encode(tokenizer, _render(tokenizer, dialogue[: index + 1], False))
        if tuple(together[: len(ids)]) != ids:
            raise InputError(
                f"chat template: an answer tokenises otherwise inside its dialogue than after its prompt; {_REMEDY}"
            )


def encode_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """Token ids of messages that follow a closed answer, up to where the next answer begins.

    They are what the template appends to a dialogue, whatever was said in it: `check_turns` proves that.
    """
    closed = (Message("user", "a"), Message("assistant", "b"))
    closing = str(tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)[0]))
    before, whole = _render(tokenizer, closed, False), _render(tokenizer, (*closed, *messages), True)
    end = before.rfind(closing) + len(closing)
    head, ids = _encode(tokenizer, before[:end]), _encode(tokenizer, whole)
    if ids[: len(head)] != head:
        raise InputError(f"chat template: earlier turns change once a turn follows them; {_REMEDY}")
    return tuple(ids[len(head) :])


def check_turns(tokenizer: PreTrainedTokenizerBase) -> None:
    """Prove that a dialogue written turn by turn has the tokens that the template gives the whole of it.

    Raises:
        InputError: it has not, so that no environment can reply; with the remedy.
    """
    dialogue = _probe()
    ids = prompt_ids(tokenizer, Prompt("probe", tuple(dialogue[:1])))
    for index in (1, 3):
        prompt = Prompt("probe", tuple(dialogue[:index]))
        answer, mask = encode_example(tokenizer, prompt, dialogue[index].content)
        written = answer[len(mask) - sum(mask) :]
        ids = (*ids, *written, *encode_turn(tokenizer, [dialogue[index + 1]]))
        if ids != prompt_ids(tokenizer, Prompt("probe", tuple(dialogue[: index + 2]))):
            raise InputError(f"chat template: does not only append when a turn follows another; {_REMEDY}")


def _probe() -> list[Message]:
    """A dialogue of five turns."""
    roles: list[Literal["user", "assistant"]] = ["user", "assistant", "user", "assistant", "user"]
    words = ["one", "two", "red", "blue", "ten"]
    return [Message(role, f"{word} it is, {role}.") for role, word in zip(roles, words, strict=True)]


def load_tokenizer(model: str, *, dialogue: bool = True, template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, with a padding token.

    Args:
        template: name or file of the chat template that it gets where it has none.

    Raises:
        InputError: it is not there, has tokens without a row in the embedding of the model beside it, or (asked for
            `dialogue`) has no chat template that training can rely on.
    """
    try:
        tokenizer = tokenizer_class(model).from_pretrained(model)
    except Exception as error:  # tokenizers raises plain Exceptions
        raise InputError(
            f"model {model}: no tokenizer can be loaded from there ({str(error).strip().splitlines()[0]}); see that "
            "tokenizer.json and tokenizer_config.json are whole, and not of a newer release of tokenizers"
        ) from error
    if tokenizer.chat_template is None and template is not None:
        tokenizer.chat_template = template_text(template, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, never from token ids
    try:
        check_ids(tokenizer, vocabulary_of(model))
        if dialogue:
            check_template(tokenizer)
    except InputError as error:
        raise InputError(f"model {model}: {error}") from error
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int, template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; the same texts give the same pieces.

    Args:
        template: name or file of its chat template; None: `DEFAULT_TEMPLATE`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = template_text(template or "default", tokenizer)
    return tokenizer


_REMEDY = (
    "name one in the job as `chat_template` (default, alpaca, chatml, or a file), or put a chat_template.jinja beside "
    "the model"
)


def reads_same_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether token ids that one wrote mean the same to the other: vocabulary and template agree."""
    return tokenizer.get_vocab() == other.get_vocab() and tokenizer.chat_template == other.chat_template


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """A prompt up to where the answer begins; nothing is cut."""
    return tuple(_encode(tokenizer, _render(tokenizer, prompt.messages, True)))


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text without any template; a control token that it spells stays text."""
    return token_ids(tokenizer, marked(tokenizer, text))


def dialogue_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """A whole dialogue as its template renders it."""
    return _encode(tokenizer, _render(tokenizer, messages, False))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return token_ids(tokenizer, text)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_prompt: bool) -> str:
    from jinja2 import TemplateError

    turns = [{"role": m.role, "content": marked(tokenizer, m.content)} for m in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_prompt))
    except TemplateError as error:
        raise InputError(
            f"chat template: refuses the dialogue of roles {', '.join(m.role for m in messages)} ({error}); leave out "
            "such rows, merge neighbouring turns of one role, or take a model whose template has these roles"
        ) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"chat template: fails with {type(error).__name__}: {error}; correct chat_template.jinja, or the "
            "chat_template of tokenizer_config.json"
        ) from error
