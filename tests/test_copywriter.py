"""LoRA on a causal model with approved copy: it learns, and fits its own weights only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from text_lines import Pair, pairs, read_approved, split
from tiny_encoders import make_causal
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM

from recllm.base.errors import DataError, ModelError, UsageError
from recllm.learn.training.lora.copywriter import CopywriterArguments, tokens_of, tune_generator
from recllm.text.generator.local import load_causal
from recllm.text.generator.locate import _languages, find_generator

WORDS = ("Product", ":", "Why", "soft", "buns", "mug", "for", "you", "your", "table", "Warm", "a", ".", "\n")
LEARN = [Pair(f"[user]\nProduct: {name}", f"Warm {name} for your table.") for name in ("buns", "mug", "soft buns")] * 4
JUDGE = [Pair("[user]\nProduct: soft mug", "Warm soft mug for your table.")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a vocabulary of whole words."""
    special = ["<|im_start|>", "<|im_end|>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, "user", "assistant", " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Fuse()
    sizes = {"num_hidden_layers": 3, "max_position_embeddings": 256}
    # with the usual .02 an adapter can hardly move what the frozen head says
    return make_causal(tmp_path_factory.mktemp("base"), tokenizer, special, initializer_range=0.2, **sizes)


def arguments(**values: Any) -> Any:
    told = {"learning_rate": 2e-2, "epochs": 4, "batch_size": 4, "top_layers": 2, "warmup_steps": 1}
    return CopywriterArguments(**{**told, **values})


def tune(base: Path, out: Path, **values: Any) -> Any:
    return tune_generator(LEARN, JUDGE, base, out, arguments(**values))


def perplexity_of(folder: Path, adapter: Path | None = None) -> float:
    """Of the held-back line, by the plain model, one token after the other."""
    tokenizer, model = load_causal(folder, "cpu", adapter=adapter)
    tokens = tokens_of(JUDGE[0], tokenizer, 160) or {}
    with torch.no_grad():
        logits = model.float()(input_ids=torch.tensor([tokens["input_ids"]])).logits[0]
    pairs = [(n - 1, token) for n, token in enumerate(tokens["labels"]) if token != -100]
    likelihood = [float(torch.log_softmax(logits[n], 0)[token]) for n, token in pairs]
    return float(torch.tensor(likelihood).mean().neg().exp())


def test_it_learns_and_is_loaded(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    tuned = tune(base, tmp_path / "voice", languages=("en",))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(tuned.perplexity) == 5 and tuned.perplexity[-1] < 0.3 * tuned.perplexity[0]
    assert (tuned.n_learned, tuned.n_validation) == (12, 1)
    assert {p.suffix for p in tuned.folder.iterdir() if p.is_file()} == {".json", ".safetensors", ".jsonl"}
    before, after = perplexity_of(base), perplexity_of(base, adapter=tuned.folder)
    assert before == pytest.approx(tuned.perplexity[0], rel=0.05)
    assert after == pytest.approx(min(tuned.perplexity[1:]), rel=0.05)
    generator: Any = find_generator(str(base), adapter=tuned.folder)
    assert generator.tuned and generator.languages == {"en"}


def test_only_the_line_is_learned(base: Path) -> None:
    tokenizer, _ = load_causal(base, "cpu")
    tokens = tokens_of(LEARN[0], tokenizer, 160) or {}
    ids, labels = tokens["input_ids"], tokens["labels"]
    learned = [token for token in labels if token != -100]
    assert len(ids) == len(labels) == len(tokens["attention_mask"])
    assert tokenizer.decode(learned).removesuffix(tokenizer.eos_token) == LEARN[0].answer
    assert learned[-1] == tokenizer.eos_token_id and ids[-len(learned) :] == learned
    assert tokens_of(LEARN[0], tokenizer, 3) is None


def test_an_adapter_belongs_to_its_weights(base: Path, tmp_path: Path) -> None:
    tuned = tune(base, tmp_path / "voice", epochs=1)
    other = tmp_path / "other"
    other.mkdir()
    for file in base.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(other)
    with pytest.raises(ModelError, match="was trained on"):
        find_generator(str(other), adapter=tuned.folder)
    with pytest.raises(ModelError, match="no tuned generator"):
        find_generator(str(base), adapter=tmp_path)
    with pytest.raises(UsageError, match="takes no adapter"):
        find_generator("template", adapter=tuned.folder)


@pytest.mark.parametrize(("learned", "spoken"), [(["en"], ("en",)), (["en", "zh"], ("en",)), (["zh"], None)])
def test_smollm2_is_not_trusted_with_chinese(
    tmp_path: Path, learned: list[str], spoken: tuple[str, ...] | None
) -> None:
    (tmp_path / "recllm.json").write_text(json.dumps({"languages": learned}))
    if spoken is None:
        with pytest.raises(UsageError, match="tune a model that knows the language"):
            _languages("smollm2", tmp_path)
    else:
        assert _languages("smollm2", tmp_path) == spoken
    assert _languages("other/model", tmp_path) == tuple(learned)


def test_nothing_to_learn_from(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more approved copy"):
        tune_generator(LEARN, [], base, tmp_path / "voice", arguments())
    with pytest.raises(UsageError, match="at least 1"):
        arguments(rank=0)


def texts(tmp_path: Path, *bodies: str, **item: Any) -> Path:
    file = tmp_path / "approved.jsonl"
    about = {"id": "b", "title": "Sandwich buns", **item}
    entries = [{"item": about, "channel": "push", "parts": {"title": "For lunch", "body": body}} for body in bodies]
    file.write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries))
    return file


def test_what_may_not_be_said_is_not_learned(tmp_path: Path) -> None:
    good = "Toast your buns and call it breakfast."
    bodies = (good, good, "These buns cure a cold.", "Buns at half price for you.", "", "Buy 2 buns now.")
    ((pair, item_id),) = pairs(read_approved(texts(tmp_path, *bodies)))
    assert (pair.answer, item_id) == (f"title: For lunch\nbody: {good}", "b")
    assert "sandwich buns" in pair.prompt and "another message" not in pair.prompt


def test_no_item_is_on_both_sides() -> None:
    found = [(Pair(f"{n}", f"{k}"), str(n)) for n in range(300) for k in range(2)]
    learn, judge = split(found, share=0.2)
    assert len(learn) + len(judge) == 600 and 60 < len(judge) < 180
    assert not {p.prompt for p in learn} & {p.prompt for p in judge}


FAULTY = ("[]", "{", '{"parts": {}}', '{"item": {"title": "x"}, "parts": 1}', '{"item": {}, "parts": {}}')


@pytest.mark.parametrize("line", [*FAULTY, '{"item": {"title": "x"}, "parts": {}, "channel": "z"}'])
def test_a_faulty_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "approved.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        list(read_approved(file))
