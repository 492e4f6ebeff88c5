"""Texts and their tokens, by the `tokenizers` library with the tokenizer of the tiny model.

`pieces` is what `TextStream` gives out token by token, its last item what is left at the end.
"""

from typing import Any

from tokenizers import Tokenizer as Backend

from export import qwen_tokenizer
from runtimes.tokenizer import TextStream, Tokenizer
from tools.golden.files import ROOT

TINY = "export/models/tiny/tokenizer.json"
TEXTS = (
    "",
    "Hello, world!",
    "Once upon a time there was a cat. It's been 42 days; I'll go, we've DON'T can'T 'ſ",
    "  leading and   many    spaces \t tabs\n\n\nand lines\r\n  \n end  ",
    "日本語のテスト。漢字とかな、カタカナ",
    "中文分词：你好，世界！「引号」",
    "한국어 문장입니다 각",
    "العربية مُشَكَّلَة، עִבְרִית",
    "हिन्दी में नमस्ते, தமிழ், ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ❤️",
    "cafe\u0301 naïve Å \u1e9b\u0323 \ufb01 \u212b",
    "a\u0301\u0302\u0303 e\u0327\u0301 x\u0335\u0336",
    "𝒳 𐍈 \U0001f600\U00020bb7",
    "1234567890 3.14159 1e-9 ½ ² Ⅷ ٣",
    "def f(x):\n    return x**2  # ünï\n\n\tif a != b: {}[]()<>",
    "zero\u200bwidth\u00a0nbsp\u3000ideographic\u2028line\u0085next\u000bvt\u000cff\u001cfs",
    "'s 't 're 'VE 'm 'Ll 'd ''s",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "<|im_start|<|im_end|>|> <|vision_start|><|image_pad|><|vision_end|> <tool_call>x</tool_call>",
    "<|endoftext|><|endoftext|> a<|endoftext|>",
    "supercalifragilisticexpialidocious" * 3,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u0000\u0001\u007f\ufffd\ufeff",
)
# tokens that are no text: lone bytes of characters, cut characters, tokens that nobody knows
BYTE_RUNS = (
    (0xE6,),
    (0xE6, 0x97),
    (0xF0, 0x9F, 0x98),
    (0xE6, 0x41),
    (0xFF, 0xC0, 0x80),
    (0xED, 0xA0, 0x80),
    (0x80,) * 5,
)


def content() -> dict[str, Any]:
    """The cases."""
    return {"tokenizer_file": TINY, "cases": cases(Backend.from_file(str(ROOT / TINY)))}


def cases(backend: Backend) -> list[dict[str, Any]]:
    """Each text, and tokens that are no text, with all that comes of them."""
    tokenizer = Tokenizer(backend)
    letters = qwen_tokenizer.byte_letters()
    runs: list[Any] = [[backend.token_to_id(letters[byte]) for byte in run] for run in BYTE_RUNS]
    beyond = tokenizer.vocab_size + 5
    odd: list[list[int]] = [*runs, [beyond], [*tokenizer.encode("a"), beyond, *tokenizer.encode("b")]]
    texts = [_case(tokenizer, tokenizer.encode(text)) | {"text": text} for text in TEXTS]
    return texts + [_case(tokenizer, tokens) for tokens in odd]


def _case(tokenizer: Tokenizer, tokens: list[int]) -> dict[str, Any]:
    stream = TextStream(tokenizer)
    return {
        "tokens": tokens,
        "decoded": tokenizer.decode(tokens),
        "decoded_special": tokenizer.decode(tokens, special=True),
        "pieces": [*(stream.push(token) for token in tokens), stream.flush()],
    }
