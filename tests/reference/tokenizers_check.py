# SPDX-License-Identifier: Apache-2.0
"""Compares graft's tokenizers with the Python library `tokenizers`, id by id and character by character.

Small tokenizers of every published family are trained at run time on text found on this machine, saved as tokenizer.json,
and asked for the same lines on both sides: encoding single and in pairs, with and without special tokens, shortened and
not; decoding with and without special tokens, at once and token by token. Exits with 1 on any difference.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread on either side

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(0)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UNDERSCORE = "\u2581"

TORTURE = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\n \n", "a", " a", "a ", "  a  ", "\u00a0", "\u3000x\u3000",
    "don't can't I'll we've they're I'm he'd it's DON'T I'LL 'S 'Ve x'\u017f 'll'll ''s",
    "1 12 123 1234 12345 1,234.56 \u0661\u0662\u0663 \u00b2\u00b3 \u2167 \u00bd 3\ufe0f\u20e3 \u4e00\u4e8c",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030a \u1e9b\u0323 \ufb01 \u2126 \u212b \u01c4 \u0130 I\u0307 \u03a3\u03c3\u03c2 \u1e9e \u00df",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u6f22\u5b57kanji\u30ab\u30bf\u30ab\u30ca\u3072\u3089\u304c\u306a \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \U00020000\u3400\uf900",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u05e9\u05dc\u05d5\u05dd \u041f\u0440\u0438\u0432\u0435\u0442",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd \u2603",
    "\u0000\u0001\u0002\u001f\u007f\u0080\u0085\u009f\u00ad\u200b\u200e\u2028\u2029\ufeff\ufffd\ue000\u180e",
    "\u180e x\u180ey \u2000\u2001\u202f\u205f\u1680 z\u0085w\u000b\u000c",
    "e\u0301\u0302\u0303 o\u0308\u0323 \u0300alone \u0903\u20dd q\u0307\u0323",
    "!!! ??? ... --- \u2014\u2013 \u00bfqu\u00e9? \u00a1s\u00ed! \u00abx\u00bb \u201cq\u201d \u300c\u300d $ \u20ac + = ~ ^ ` | < > @#%&*()[]{}\\/",
    "foo_bar __init__ snake_case CamelCase HTTPServer x1y2 a-b c/d e.f@g.h https://example.org/a?b=c&d=%20",
    "def f(x):\n    if x:\n        return [1,  2,\t3]\n\n\n\treturn None  # done   \r\n",
    "<s> </s> <unk> [CLS] [SEP] [MASK] <|endoftext|> <|im_start|>user\nhi<|im_end|> <0x0A> <s></s>x<s>",
    "\u2581 \u2581\u2581a \u2581b c\u2581d \u0120 \u0120x \u010a", "a" * 300, " " * 100 + "x" + " " * 33, "ab" * 150,
    "\u00e9" * 120, "supercalifragilisticexpialidocious " * 3, "x\n" * 40, "\U0001f600" * 30, "the  the   the    the",
    "New york NEW YORK new york newyork new-york New York! \u00e9New York", "Tok tok TOK  tok  xtok tokx tok,tok",
]


def stable_characters():
    """Characters that have been in Unicode since release 3.2: every library's tables agree on them."""
    old = unicodedata.ucd_3_2_0
    return [chr(c) for c in range(0x30000) if not 0xd800 <= c <= 0xdfff and old.category(chr(c)) != "Cn"
            and old.category(chr(c)) == unicodedata.category(chr(c))]


def random_lines(count, seed):
    draw = random.Random(seed)
    characters = stable_characters()
    common = list("abcdefghij THE the \n\t.,'!?0123456789") + ["\u00e9", "\u0301", "\u4e2d", "\u3042", "\U0001f600"]
    lines = []
    for _ in range(count):
        pool = characters if draw.random() < 0.5 else common
        lines.append("".join(draw.choice(pool if draw.random() < 0.7 else common) for _ in range(draw.randint(1, 40))))
    return lines


def training_text(shakespeare):
    lines = [line + "\n" for line in open(shakespeare, encoding="utf-8").read().split("\n")] if shakespeare else []
    for path in sorted(glob.glob("/usr/share/common-licenses/*"))[:10]:
        lines += open(path, encoding="utf-8", errors="replace").readlines()
    return lines + (TORTURE + random_lines(300, 1)) * 3


def source_text():
    """Enough text for a vocabulary of GPT-2's size: the sources of Python itself."""
    return [open(p, encoding="utf-8", errors="replace").read() for p in sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))]


def bpe(pre, text, vocabulary=1500, special=("<|endoftext|>",), alphabet=True, **options):
    t = Tokenizer(models.BPE(**options))
    t.pre_tokenizer = pre
    t.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
    return t


def template(t, single, pair, *names):
    t.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(n, t.token_to_id(n)) for n in names])


def edited(t, change):
    data = json.loads(t.to_str())
    change(data)
    return Tokenizer.from_str(json.dumps(data))


def gpt2(text):
    t = bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), text)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def gpt2_added(text):
    t = gpt2(text)
    t.add_tokens([AddedToken("New York", single_word=True), AddedToken(" tok", lstrip=True), AddedToken("TOK", rstrip=True, normalized=False)])
    t.add_special_tokens([AddedToken("<|im_start|>", lstrip=True, rstrip=True), "<|im_end|>", "<s>", "<s></s>", "  "])
    return t


def llama3(text):
    t = bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
            text, special=("<|begin_of_text|>", "<|end_of_text|>"), ignore_merges=True)
    t.decoder = decoders.ByteLevel()
    template(t, "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", "<|begin_of_text|>")
    one = json.loads(t.to_str())["post_processor"]

    def change(data):
        del data["model"]["merges"][::7]  # tokens that only ignore_merges still finds
        data["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, one]}
    return edited(t, change)


def qwen2(text):
    t = bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), text)
    t.normalizer = normalizers.NFC()
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    def old_merges(data):
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return edited(t, old_merges)


def o200k(text):
    t = bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(O200K), "removed", invert=True),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), text)
    t.decoder = decoders.ByteLevel()
    return t


def smollm2(text):
    t = bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            text, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    t.decoder = decoders.ByteLevel()
    return t


def roberta(text):
    t = bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), text, special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return t


SENTENCE_PIECE = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def sentence_piece(text, bytes_known=BYTES, **options):
    """Trained with words cut, as SentencePiece does; byte tokens are in the vocabulary, and no added tokens."""
    spaced = pre_tokenizers.Metaspace(UNDERSCORE, prepend_scheme="always")
    t = bpe(spaced, text, special=SENTENCE_PIECE + bytes_known, alphabet=False, vocabulary=1200, unk_token="<unk>",
            byte_fallback=True, **options)
    kept = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'\n0123456789\u00e9" + UNDERSCORE)

    def change(data):  # drop rare characters, so that bytes and the unknown token are needed
        data["added_tokens"] = data["added_tokens"][:3]
        keep = lambda token: token in SENTENCE_PIECE + bytes_known or all(c in kept for c in token)
        model = data["model"]
        model["vocab"] = {token: i for i, token in enumerate(k for k in model["vocab"] if keep(k))}
        model["merges"] = [m for m in model["merges"] if keep(m[0]) and keep(m[1])]
    return edited(t, change)


def llama2(text, **options):
    t = sentence_piece(text, fuse_unk=True, **options)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend(UNDERSCORE), normalizers.Replace(" ", UNDERSCORE)])
    t.decoder = decoders.Sequence([decoders.Replace(UNDERSCORE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    template(t, "<s> $A", "<s> $A <s>:1 $B:1", "<s>")
    return t


def llama2_some_bytes(text):
    return llama2(text, bytes_known=BYTES[:0xe0])


def llama2_added(text):
    t = llama2(text)
    t.add_tokens([AddedToken("tok", single_word=True), AddedToken("the", normalized=True, lstrip=True), AddedToken("York", normalized=False)])
    return t


def metaspace(scheme, split):
    def make(text):
        t = sentence_piece(text, fuse_unk=False)
        t.pre_tokenizer = pre_tokenizers.Metaspace(UNDERSCORE, prepend_scheme=scheme, split=split)
        t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(UNDERSCORE, prepend_scheme=scheme, split=split)])
        template(t, "<s> $A </s>", "<s> $A </s> $B </s>", "<s>", "</s>")
        return t
    return make


def bert(lowercase, strip_accents=None, old_processor=False):
    def make(text):
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=1500, show_progress=False,
                                                              special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
        t.decoder = decoders.WordPiece(cleanup=lowercase)
        if old_processor:
            t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        else:
            template(t, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
        t.add_tokens([AddedToken("New York", single_word=True), AddedToken("Caf\u00e9", lstrip=True, rstrip=True)])
        return t
    return make


def whole_words(normalizer, pre):
    def make(text):
        t = Tokenizer(models.WordLevel(unk_token="<unk>"))
        t.normalizer = normalizer
        t.pre_tokenizer = pre
        t.train_from_iterator(text, trainers.WordLevelTrainer(vocab_size=3000, special_tokens=["<unk>"], show_progress=False))
        return t
    return make


def old_bpe(prefix, suffix):
    """Words as in the first papers: a mark on what continues a word, or on its end."""
    def make(text):
        t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix=prefix, end_of_word_suffix=suffix))
        t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        t.pre_tokenizer = pre_tokenizers.Whitespace()
        t.train_from_iterator(text, trainers.BpeTrainer(
            vocab_size=1500, special_tokens=["<unk>"], continuing_subword_prefix=prefix, end_of_word_suffix=suffix, show_progress=False))
        t.decoder = decoders.BPEDecoder(suffix) if suffix else decoders.WordPiece(prefix)
        return t
    return make


def families():
    found = {
        "gpt2": gpt2, "gpt2, added tokens": gpt2_added, "llama3": llama3, "qwen2": qwen2, "o200k": o200k, "smollm2": smollm2,
        "roberta": roberta, "llama2": llama2, "llama2, some bytes": llama2_some_bytes, "llama2, added tokens": llama2_added,
        "bert uncased": bert(True), "bert cased": bert(False), "bert accents": bert(True, False, True),
        "bpe suffix": old_bpe("", "</w>"), "bpe prefix": old_bpe("##", ""),
    }
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            found[f"metaspace {scheme}{' split' if split else ''}"] = metaspace(scheme, split)
    n, p = normalizers, pre_tokenizers
    for name, normalizer in {
            "nfd, accents": n.Sequence([n.NFD(), n.StripAccents(), n.Lowercase()]), "nfkd": n.NFKD(), "nfkc": n.NFKC(),
            "strip": n.Sequence([n.Strip(), n.Replace(Regex(r"[^\S\n]{2,}|\d+"), "<>"), n.Replace("th", "h")]),
            "strip right": n.Strip(left=False, right=True), "bert": n.BertNormalizer(clean_text=False, handle_chinese_chars=True)}.items():
        found[f"normalizer {name}"] = whole_words(normalizer, p.WhitespaceSplit())
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        found[f"punctuation {behavior}"] = whole_words(None, p.Punctuation(behavior))
        for invert in (False, True):
            for kind, pattern in {"string": "e", "class": Regex(r"[^\w\s]|\s"), "empty": Regex(r"x*|\b"), "lines": Regex(r"^.|[a-c]{2}+|.$")}.items():
                found[f"split {kind} {behavior}{' invert' if invert else ''}"] = whole_words(None, p.Split(pattern, behavior, invert))
    found["digits"] = whole_words(None, p.Digits(False))
    found["whitespace"] = whole_words(None, p.Whitespace())
    return found


class Peer:
    """The program under test, on one tokenizer file."""

    def __init__(self, program, path):
        self.program, self.path, self.requests = program, path, []

    def ask(self, **request):
        self.requests.append(json.dumps(request))

    def answers(self):
        done = subprocess.run([self.program, self.path], input="\n".join(self.requests) + "\n", capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return [json.loads(line) for line in done.stdout.split("\n") if line]


def requests_for(lines, draw, vocabulary):
    """What both sides are asked: (operation, its arguments)."""
    asked = []
    for i, line in enumerate(lines):
        other = lines[draw.randrange(len(lines))]
        asked.append(("encode", (line, None, True, 0)))
        asked.append(("encode", (line, None, False, 0)))
        asked.append(("encode", (line, other, i % 2 == 0, 0)))
        asked.append(("encode", (line, other if i % 3 else None, i % 5 != 0, draw.randint(8, 24))))
    for _ in range(len(lines)):
        ids = [draw.randrange(vocabulary) for _ in range(draw.randint(0, 12))]
        asked.append(("decode", (ids, bool(draw.randrange(2)))))
    return asked


def compare(name, reference, path, program, lines, seed, report):
    reference.no_padding()
    asked = requests_for(lines, random.Random(seed), reference.get_vocab_size())
    peer, expected = Peer(program, path), []
    for op, arguments in list(asked):
        if op == "encode":
            text, pair, special, length = arguments
            reference.enable_truncation(length) if length else reference.no_truncation()
            e = reference.encode(text, pair, add_special_tokens=special)
            expected.append({"ids": e.ids, "type_ids": e.type_ids})
            peer.ask(op="encode", text=text, pair=pair, special=special, max_length=length)
            if length == 0 and pair is None:
                asked.append(("decode", (e.ids, not special)))
                asked.append(("decode", (e.ids, special)))
    for op, (ids, skip) in [a for a in asked if a[0] == "decode"]:
        text = reference.decode(ids, skip_special_tokens=skip)
        expected.append({"text": text, "streamed": text})
        peer.ask(op="decode", ids=ids, skip=skip)
    answers = peer.answers()
    different = [i for i in range(len(expected)) if i >= len(answers) or answers[i] != expected[i]]
    for i in different[:3]:
        print(f"  request  {peer.requests[i][:300]}\n  expected {str(expected[i])[:300]}\n  got      {str(answers[i])[:300]}")
    report.append((name, len(expected), len(different)))
    print(f"{name}: {len(expected)} requests, {len(different)} differ", flush=True)


def compare_with_transformers(name, tokenizer, folder, program, lines, report):
    """The folder transformers writes, with roles for the special tokens."""
    try:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        print("SKIPPED: transformers is not installed")
        return
    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    peer = Peer(program, folder)
    expected = []
    for line in lines:
        e = fast(line)
        expected.append({"ids": e["input_ids"], "type_ids": e.get("token_type_ids", [0] * len(e["input_ids"]))})
        peer.ask(op="encode", text=line, pair=None, special=True, max_length=0)
    different = [i for i, answer in enumerate(peer.answers()) if answer != expected[i]]
    report.append((name, len(expected), len(different)))
    print(f"{name}: {len(expected)} requests, {len(different)} differ", flush=True)


def measure(shakespeare, folder, program):
    """Megabytes a second on one long text, one thread each, in turns on the same machine."""
    print("training a vocabulary of 50,257 tokens ...", flush=True)
    t = bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), source_text() + [open(shakespeare, encoding="utf-8").read()], vocabulary=50257)
    path = os.path.join(folder, "speed.json")
    t.save(path)
    text = open(shakespeare, encoding="utf-8").read()
    size = len(text.encode()) / 1e6
    lines = text.splitlines(keepends=True)
    ways = {"encode, whole": lambda: t.encode(text), "encode, by line": lambda: [t.encode(line) for line in lines],
            "encode_batch_fast, by line": lambda: t.encode_batch_fast(lines)}
    theirs = {}
    for name, way in ways.items():
        for _ in range(4):
            start = time.perf_counter()
            way()
            theirs[name] = min(theirs.get(name, 1e30), time.perf_counter() - start)
    peer = Peer(program, path)
    peer.ask(op="time", file=shakespeare, repeat=10)
    ours = peer.answers()[0]
    assert ours["tokens"] == len(t.encode(text).ids), ours
    print(f"encoding {size:.2f} MB with {t.get_vocab_size()} tokens, one thread: graft {size / ours['seconds']:.1f} MB/s; tokenizers "
          f"{tokenizers.__version__} " + ", ".join(f"{size / seconds:.1f} MB/s ({name})" for name, seconds in theirs.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode-program", required=True, help="tests/reference/tokenize.cpp, built")
    parser.add_argument("--work", required=True, help="folder to write tokenizers to")
    parser.add_argument("--data", help="folder with tinyshakespeare/input.txt and stories260K/ (default: the variable GRAFT_DATA)")
    parser.add_argument("--minilm", help="folder with the tokenizer.json of all-MiniLM-L6-v2")
    parser.add_argument("--only", help="run the families whose name contains this")
    parser.add_argument("--lines", type=int, default=150, help="lines of plays, and random lines, for each family")
    parser.add_argument("--speed", action="store_true", help="measure throughput as well")
    a = parser.parse_args()
    data = a.data or os.environ.get("GRAFT_DATA", "")
    shakespeare = os.path.join(data, "tinyshakespeare", "input.txt")
    shakespeare = shakespeare if os.path.exists(shakespeare) else None
    os.makedirs(a.work, exist_ok=True)
    text = training_text(shakespeare)
    draw = random.Random(7)
    lines = TORTURE + draw.sample(text[:40000], min(a.lines, len(text))) + random_lines(a.lines, 2)
    lines.append("".join(lines) + "".join(text[:200]))  # a piece of thousands of characters, for models that do not cut
    report = []
    for seed, (name, make) in enumerate(families().items()):
        if a.only and a.only not in name:
            continue
        t = make(text)
        path = os.path.join(a.work, name.replace(" ", "-").replace(",", "") + ".json")
        t.save(path)
        compare(name, Tokenizer.from_file(path), path, a.encode_program, lines, seed, report)
        if name == "llama2":
            compare_with_transformers("llama2 by transformers", t, os.path.join(a.work, "llama2-folder"), a.encode_program, lines, report)
    for name, folder in {"MiniLM": a.minilm, "stories260K": os.path.join(data, "stories260K")}.items():
        path = os.path.join(folder or "", "tokenizer.json")
        if not folder or not os.path.exists(path):
            print(f"{name}: SKIPPED, no tokenizer.json")
        elif not a.only or a.only in name:
            compare(name, Tokenizer.from_file(path), path, a.encode_program, lines, 99, report)
    if a.speed and shakespeare:
        measure(shakespeare, a.work, a.encode_program)
    requests, different = sum(r[1] for r in report), sum(r[2] for r in report)
    print(f"tokenizers {tokenizers.__version__}: {len(report)} tokenizers, {requests} requests, {different} differ")
    sys.exit(1 if different or not requests else 0)


if __name__ == "__main__":
    main()
