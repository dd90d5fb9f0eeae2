"""Varied texts for tokenizers, the same for the same seed: what people, programs and attackers write."""

import random
from collections.abc import Callable, Sequence

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, didn't it?",
    "Où est-ce qu'on a rangé l'œuvre de la forêt naïve ?",
    "Straße, Füße, Öl und Übermut: 12.345,67 €",
    "Съешь же ещё этих мягких французских булок",
    "Η ταχεία αλεπού πηδάει πάνω από το σκυλί",
    "צופן דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा",
    "আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না",
    "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல்",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "天地玄黃,宇宙洪荒。日月盈昃,辰宿列張。",
    "いろはにほへと ちりぬるを わかよたれそ",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "Tôi có thể ăn thủy tinh mà không hại gì.",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig",
    "მინას ვჭამ და არა მტკივა",
    "Կրնամ ապակի ուտել և ինծի անհանգիստ չըներ",
    "ኢትዮጵያ ውስጥ ብዙ ቋንቋዎች ይነገራሉ",
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ 𐌰𐌱𐌲 𒀀𒁀 𓂀𓃭",
)
LETTERS = (
    (0x21, 0x7F), (0xA0, 0x250), (0x250, 0x2B0), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x590),
    (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0x980, 0xA00), (0xB80, 0xC00), (0xD00, 0xD80), (0xE00, 0xE80),
    (0xF00, 0x1000), (0x10A0, 0x1100), (0x1100, 0x1200), (0x1200, 0x1380), (0x1780, 0x1800), (0x1E00, 0x2000),
    (0x2000, 0x2070), (0x2100, 0x2300), (0x2500, 0x2600), (0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000),
    (0xAC00, 0xD7A4), (0xF900, 0xFB00), (0xFB50, 0xFE00), (0xFF00, 0xFFF0), (0x10300, 0x10350), (0x12000, 0x12100),
    (0x1D400, 0x1D800), (0x20000, 0x20100), (0x30000, 0x30100),
)  # fmt: skip
EMOJI = ("😀", "👍", "👩", "👨", "👧", "🚀", "❤", "☺", "🏳", "🌈", "🏴", "🇩", "🇪", "🇯", "🇵", "✌", "1", "🫠", "🪿")
JOINERS = ("\u200d", "\ufe0f", "\ufe0e", "\u20e3", "🏻", "🏿", "\U000e0067", "\U000e007f", "")
SPACES = (" ", "\n", "\t", "\r", "\r\n", "\v", "\f", "\u00a0", "\u2003", "\u2028", "\u3000", "\u200b", "\ufeff", "▁")
CONTROLS = (
    "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<end_of_image>", "<image_soft_token>", "<unused0>", "<unused98>", "<unused99>", "<unused6241>", "[multimodal]",
    "[@BOS@]", "<2mass>", "<unused>", "<unused9999>", "<|im_start|>", "<s>", "</s>", "<start_of_turn>user\n",
    "<end_of_turn>\n<start_of_turn>model\n",
)  # fmt: skip
MARKUP = (
    "<table>",
    "</td>",
    "<h1>",
    "<b>",
    "</b>",
    "<i",
    "/>",
    "<iframe>",
    "<div class='x'>",
    "<br>",
    "&nbsp;",
    "<!--",
)
BYTES = ("<0x00>", "<0x41>", "<0xE2>", "<0xff>", "\0", "\x01", "\x1b[0m", "\x7f", "\x85", "\x9f", "\ufffd", "\ufffe")
BROKEN = ("\ud83d", "\ude00", "\ud83d\ude00", "\udfff\ud800", "\ud800", "\U0010ffff", "\ue000", "\ufdd0", "\U0001ffff")
CODE = (
    "def f(x: int) -> int:\n    return x ** 2\n",
    'for (int i = 0; i < n; ++i) { a[i] += "%d\\n"; }',
    "\t\tif err != nil {",
    '{"messages": [{"role": "user", "content": "a\\u00e9"}]}',
    "SELECT * FROM t WHERE a<>'b' -- c",
    "#include <stdio.h>",
    "git commit -m 'x' && rm -rf ./build/*",
    "https://example.org/a?b=c&d=%20#e",
    "r'^\\s*(?P<name>[a-z_]+)\\b$'",
    "λx.x→y ∀∃≠≤",
    "        self.assertEqual(a, b)\n\n\n",
    "0x7fff_ffff 1e-9 3.14159265358979 1,000,000 ½ ² ①",
    "````\n~~~",
    "x\u0301\u0323\u0488" * 4,
)

Maker = Callable[[random.Random], str]


def varied_strings(count: int, seed: int, pieces: Sequence[str]) -> list[str]:
    """So many texts; `pieces` are a vocabulary's, with spaces as spaces, from which some are glued together."""
    rng = random.Random(seed)
    makers: list[Maker] = [
        lambda rng: _cut(rng, rng.choice(SENTENCES)),
        lambda rng: _letters(rng),
        lambda rng: "".join(rng.choice(EMOJI) + rng.choice(JOINERS) for _ in range(rng.randrange(1, 12))),
        lambda rng: "".join(_spaces(rng) + rng.choice(("", "a", "the", "é", "。")) for _ in range(rng.randrange(1, 9))),
        lambda rng: "".join(_spoil(rng, rng.choice(CONTROLS)) for _ in range(rng.randrange(1, 6))),
        lambda rng: "".join(rng.choice(MARKUP) + rng.choice(("", " ", "x", "\n")) for _ in range(rng.randrange(1, 9))),
        lambda rng: "".join(
            rng.choice(BYTES + BROKEN) + rng.choice(("", "a", "ß")) for _ in range(rng.randrange(1, 9))
        ),
        lambda rng: rng.randbytes(rng.randrange(1, 40)).decode(rng.choice(("latin-1", "utf-8", "cp437")), "replace"),
        lambda rng: _cut(rng, rng.choice(CODE)),
        lambda rng: "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 24))),
        lambda rng: " ".join(rng.choice(pieces) for _ in range(rng.randrange(1, 16))),
        lambda rng: "".join(
            chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(20)
        ),
        lambda rng: rng.choice(pieces)[:3] * rng.randrange(1, 60),
    ]
    return [_mixed(rng, makers) if n % 4 == 0 else makers[n % len(makers)](rng) for n in range(count)]


def _mixed(rng: random.Random, makers: Sequence[Maker]) -> str:
    glue = rng.choice(("", " ", "\n"))
    return glue.join(rng.choice(makers)(rng) for _ in range(rng.randrange(2, 8)))


def _cut(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    return text[start : start + rng.randrange(1, len(text) + 1)]


def _letters(rng: random.Random) -> str:
    start, stop = rng.choice(LETTERS)
    return "".join(rng.choice((chr(rng.randrange(start, stop)),) * 6 + (" ",)) for _ in range(rng.randrange(1, 40)))


def _spaces(rng: random.Random) -> str:
    return rng.choice(SPACES) * rng.choice((1, 1, 2, 3, rng.randrange(1, 70)))


def _spoil(rng: random.Random, text: str) -> str:
    """The text, or one that nearly is it."""
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        (text, text, text[:at], text[at:], text.upper(), text[:at] + " " + text[at:], f"<{text}>", text * 2)
    )
