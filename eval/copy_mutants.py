"""Would anybody notice a fault in the verifier? Changes one operator or number of `adcopy/verify/` at a time.

    python eval/copy_mutants.py --part 1/4 -o part1.json    # a quarter of the mutants
    python eval/copy_mutants.py --merge part*.json          # the score, into eval/results/copy-guarantees.json

Parts take every nth mutant, so that a few of many parts are a sample.

A mutant is killed when a text of eval/copy_texts/ is told something else than before, or when one of the room's tests
fails. Each runs in a fork of its own, so that nothing of it stays. Comparisons, and/or, not,
arithmetic, numbers and truth values are changed; texts, patterns and annotations are not.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "recllm" / "market" / "adcopy" / "verify"
RESULT = ROOT / "eval" / "results" / "copy-guarantees.json"
TESTS = ["tests/test_verify.py", "tests/test_copy_packs.py", "tests/test_copy_process.py"]
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
}


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(what was changed, changed source), one change each."""
    for number in range(sum(1 for _ in _places(ast.parse(source)))):
        tree = ast.parse(source)
        node, change = list(_places(tree))[number]
        yield f"line {getattr(node, 'lineno', 0)}: {change(node)}", ast.unparse(ast.fix_missing_locations(tree))


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, Any]]:
    classes = [c for c in ast.walk(tree) if isinstance(c, ast.ClassDef)]
    decorators = {id(n) for c in classes for d in c.decorator_list for n in ast.walk(d)}
    for node in ast.walk(tree):
        if id(node) in decorators:  # frozen=True changes nothing that a text could show
            continue
        if isinstance(node, ast.Compare):
            yield from ((node, _swap_in("ops", i)) for i, op in enumerate(node.ops) if type(op) in _SWAPS)
        elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in _SWAPS and not _annotates(node):
            yield node, _swap_op
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, _drop_not
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield node, _other_value


def _annotates(node: ast.BoolOp | ast.BinOp) -> bool:
    """`X | None` in an annotation is no arithmetic; it uses BitOr, which is not swapped."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)


def _swap_in(name: str, number: int) -> Any:
    def change(node: Any) -> str:
        old = getattr(node, name)[number]
        getattr(node, name)[number] = _SWAPS[type(old)]()
        return f"{type(old).__name__} -> {_SWAPS[type(old)].__name__}"

    return change


def _swap_op(node: Any) -> str:
    old = node.op
    node.op = _SWAPS[type(old)]()
    return f"{type(old).__name__} -> {_SWAPS[type(old)].__name__}"


def _drop_not(node: Any) -> str:
    node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    return "not x -> x"


def _other_value(node: Any) -> str:
    old = node.value
    node.value = (not old) if isinstance(old, bool) else old + 1
    return f"{old} -> {node.value}"


def verdicts() -> Iterator[tuple[str, ...]]:
    """What each text is told: guarantee, piece of text and message of every failure."""
    guarantees = importlib.import_module("copy_guarantees")
    judge = importlib.import_module("recllm.market.adcopy.submissions").judge
    failures = (judge(submission).failures for submission in guarantees.all_submissions())
    return (tuple(sorted(f"{c.guarantee} {c.span} {c.message}" for c in checks)) for checks in failures)


def survives(module: str, source: str, verdicts_before: list[tuple[str, ...]]) -> bool:
    """True when neither texts nor tests see the change. Runs in a child, whose exit code is the answer."""
    child = os.fork()
    if child == 0:
        os._exit(_seen_in_child(module, source, verdicts_before))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _seen_in_child(module: str, source: str, verdicts_before: list[tuple[str, ...]]) -> int:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1), os.dup2(devnull, 2)
    try:
        _install(module, source)
        if any(now != before for now, before in zip(verdicts(), verdicts_before, strict=True)):
            return 1
        import pytest

        return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *TESTS]) != 0)
    except BaseException:  # a mutant that cannot run is seen
        return 1


def _install(name: str, source: str) -> None:
    """Imports the package anew with one module's source changed."""
    for loaded in [m for m in sys.modules if m == "copy_guarantees" or m.startswith("recllm.market.adcopy")]:
        del sys.modules[loaded]
    sys.meta_path.insert(0, _Changed(name, source))
    importlib.import_module("recllm.market.adcopy.submissions")


class _Changed:
    """Finds one module, whose source is given."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._name, "exec"), module.__dict__)  # noqa: S102 - our own source, changed


def run(part: int, parts: int) -> dict[str, Any]:
    before = list(verdicts())
    todo = [
        (f"recllm.market.adcopy.verify.{file.stem}", file.name, *mutant)
        for file in sorted(FOLDER.glob("*.py"))
        for mutant in mutants(file.read_text(encoding="utf-8"))
    ]
    share = todo[part - 1 :: parts]
    left = [f"{file} {what}" for module, file, what, source in share if survives(module, source, before)]
    return {"mutants": len(share), "of": len(todo), "survived": left}


def merge(files: list[Path]) -> None:
    parts = [json.loads(file.read_text()) for file in files]
    total, left = sum(p["mutants"] for p in parts), [s for p in parts for s in p["survived"]]
    result = json.loads(RESULT.read_text())
    result |= {"mutants_total": total, "mutants_killed": total - len(left), "mutants_of": parts[0]["of"]}
    result["mutation_score"] = round(1 - len(left) / total, 4)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{total - len(left)} of {total} killed", *left, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="1/1", help="which of how many parts")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+")
    options = parser.parse_args()
    if options.merge:
        merge(options.merge)
        return
    part, parts = (int(n) for n in options.part.split("/"))
    result = run(part, parts)
    print(f"{len(result['survived'])} of {result['mutants']} survive", *result["survived"], sep="\n")
    if options.output:
        options.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
