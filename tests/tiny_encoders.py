"""Model folders of a few kilobytes with random weights, as a hub would hand them out: encoders, and causal models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["red", "running", "shoes", "garden", "sofa", "with", "four", "cushions", "milk", "query", "passage", ":"]
WORDS += ["and", ",", "the", "a", "s"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789秋装新款打底衫")

SIZES: dict[str, Any] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
}
SIZES["roberta"] = SIZES["xlm-roberta"] = SIZES["bert"]
ARCHITECTURES = tuple(sorted(SIZES))
POSITIONS = 40


def make_model(folder: Path, model_type: str = "bert", *, seed: int = 0, old_vocabulary: bool = False) -> Path:
    """A plain transformers folder: config.json, model.safetensors, tokenizer. At most 40 positions."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_pairs() if model_type == "roberta" else _pieces() if model_type == "xlm-roberta" else _words()
    pad = tokenizer.token_to_id("<pad>" if "roberta" in model_type else "[PAD]")
    config = AutoConfig.for_model(
        model_type,
        **SIZES[model_type],
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=POSITIONS,
        pad_token_id=pad,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # the usual .02 would make all texts nearly equal
    model.save_pretrained(folder)
    if old_vocabulary:
        _save_old_vocabulary(folder, tokenizer)
    else:
        _save_tokenizer(folder, tokenizer, roberta="roberta" in model_type)
    return folder


def make_sentence_model(folder: Path, *, pooling: str = "mean", max_tokens: int = 12, prompts: Any = None) -> Path:
    """A sentence-transformers folder around a tiny BERT, in the layout of the first versions."""
    make_model(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    on = {f"pooling_mode_{name}": mode == pooling for mode, name in names.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **on})
    if prompts is not None:
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def edit_json(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text("utf-8")) | values)


def _words() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS])
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_pairs() -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("m", "i"), ("l", "k"), ("mi", "lk"), ("r", "e"), ("re", "d")]
    tokens = [*special, *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    return tokenizer


def _pieces() -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    scores = [(token, 0.0) for token in special]
    scores += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -6.0) for letter in ["▁", *LETTERS]]
    tokenizer = Tokenizer(models.Unigram(list(dict(scores).items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _save_tokenizer(folder: Path, tokenizer: Any, *, roberta: bool) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    first, last = ("<s>", "</s>") if roberta else ("[CLS]", "[SEP]")
    pad, unknown, mask = ("<pad>", "<unk>", "<mask>") if roberta else ("[PAD]", "[UNK]", "[MASK]")
    names = {"cls_token": first, "sep_token": last, "pad_token": pad, "unk_token": unknown, "mask_token": mask}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _save_old_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Only vocab.txt, as BERT models had it before there was a tokenizer.json."""
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in ordered) + "\n", "utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def make_causal(folder: Path, tokenizer: Any, special: Sequence[str], *, vocabulary: int = 0, **sizes: Any) -> Path:
    """A causal model for a tokenizer of the library `tokenizers`. special: what begins a text, what ends it, and what
    stands for the unknown, if anything does. vocabulary: the model's, where it is larger than the tokenizer's."""
    names = dict(zip(("bos_token", "eos_token", "unk_token"), special, strict=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=vocabulary or len(fast), eos_token_id=fast.eos_token_id, **small, **sizes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_letters_model(folder: Path, alphabet: str, special: Sequence[str], **sizes: Any) -> Path:
    """A causal model that knows single characters."""
    vocabulary = {token: number for number, token in enumerate([*alphabet, *special])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[-1]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return make_causal(folder, tokenizer, special, **sizes)
