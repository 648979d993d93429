"""Write eval/results/README.md from the files beside it:  python eval/readme_results.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {
    "cj-next28": ("ALL ndcg@20", "NEW ndcg@20", "COLD ndcg@20", "NOHISTORY ndcg@20"),
    "or-next28": ("ALL ndcg@20", "NEW ndcg@20"),
    "beauty-loo": ("MASKED recall@10", "MASKED ndcg@10"),
    "industrial-time": ("UNMASKED hr@10", "UNMASKED ndcg@10"),
}
ABOUT = {
    "cj-next28": "Complete Journey (simulated from real shopping patterns, by its package's own word): the whole "
    "catalogue of 64,864 items ranked for everyone who buys in the 28 days from 2017-12-01. ALL: what they buy, NEW: "
    "only what they never bought, COLD: first sold in the window, ranked among themselves, NOHISTORY: 200 people of "
    "whom only the basics are shown. Every peer ran in the same process; settings were chosen on the window before "
    "(`eval/peers.toml`; what was not tuned is named in `eval/LOG.md`).",
    "or-next28": "UCI Online Retail, a real web shop: 3,624 items, the last four weeks; the same defaults.",
    "beauty-loo": "Amazon Beauty 2014, 5-core, each person's last item, history masked. Learned from the train part "
    "alone. Published: SASRec with sampled softmax .0921 / .0531, eSASRec .0928 / .0523.",
    "industrial-time": "Amazon 2018 Industrial and Scientific, the 4,533 published test rows, nothing masked. Learned "
    "from about a third of the original train rows, which is all that could be rebuilt. Published, with all rows: "
    "SASRec .1088 / .0806, BIGRec .1370 / .0997, MiniOneRec .1586 / .1167.",
}


def main() -> None:
    readme = ROOT / "eval" / "results" / "README.md"
    text = readme.read_text(encoding="utf-8")
    body = "\n".join(section(name) for name in ABOUT if path_of(name).exists()) + "\n" + others()
    fresh = f"<!-- results -->\n{body}\n<!-- end of results -->"
    pattern = r"<!-- results -->(.*?<!-- end of results -->)?"
    readme.write_text(re.sub(pattern, lambda _: fresh, text, count=1, flags=re.DOTALL), encoding="utf-8")


def section(name: str) -> str:
    found, columns = load(name), [tuple(column.split()) for column in COLUMNS[name]]
    lines = ["| system | " + " | ".join(COLUMNS[name]) + " |", "| --- |" + " --- |" * len(columns)]
    for system, scores in sorted(found["systems"].items(), key=lambda pair: -leading(pair[1], columns)):
        cells = (cell(scores.get(part, {}).get(metric)) for part, metric in columns)
        label = f"**{system}**" if system.startswith("recllm") else system
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    commit, digest, seed = str(found["commit"])[:7], found["data_hash"], found["seed"]
    record = f"`python eval/run.py {name}`, commit {commit}, data {digest}, seed {seed}"
    return f"{ABOUT[name]}\n\n<!-- {name}.json -->\n" + "\n".join(lines) + f"\n\n{record}.\n"


def leading(scores: dict[str, Any], columns: list[tuple[str, ...]]) -> float:
    """What systems are sorted by: their first figure that there is."""
    found = (scores.get(part, {}).get(metric) for part, metric in columns)
    return float(next((value for value in found if value is not None), 0.0))


def others() -> str:
    """One paragraph for each of the other files."""
    return "\n".join((why(), copy(), marketing(), speed()))


def why() -> str:
    found = load("explanations")
    drop = {name: slices["ALL"]["comprehensiveness@1"] for name, slices in found["systems"].items()}
    gates = found["gates"]
    return f"""- **Reasons.** Taking away the piece of evidence that is named first lowers the score by
  {drop["recllm"]:.2f} of the range of the person's first 20 scores; the one nearest in text by
  {drop["cosine"]:.2f}, the most recent one by
  {drop["recency"]:.2f}, a random one by {drop["random"]:.3f} ({found["pairs"]} held-out purchases,
  `python eval/explanations.py`, commit {found["commit"][:7]}). Of {gates["PN-S@5"]["emitted"]} sets of
  evidence said to hold an item in the first 5, {100 * gates["PN-S@5"]["share"]:.0f} % do so when the list
  is ranked again without them; among the pieces of a made-up person the planted one is named in
  {100 * gates["planted_truth"]["share"]:.0f} %."""


def copy() -> str:
    found = load("copy-models")
    tuned = found["systems"]["en grammar + lora"]
    return f"""- **Ad text.** {found["verified"]} of {found["total"]} texts verified;
  {100 * found["kept_share"]:.0f} % kept the opening words of a 135M-parameter model under a grammar, the rest took the
  shop's own lines; of the model's single lines {100 * found["systems"]["en grammar"]["lines_verified"]:.0f} % pass
  every check, after LoRA {100 * tuned["lines_verified"]:.0f} % (`python eval/copy_models.py`, commit
  {found["commit"][:7]}). Passing is not reading well: see the notes in `eval/results/copy-models.json`. Its Chinese is
  refused; a larger model takes its place by name."""


def marketing() -> str:
    redeem, active, reach = load("cj-redeem"), load("cj-active28"), load("audience")
    ours = {name: found["systems"]["recllm"]["ALL"] for name, found in (("redeem", redeem), ("active", active))}
    first = {name: parts["ALL"]["precision@50"] for name, parts in reach["systems"].items()}
    return f"""- **What people will do** (Complete Journey). Who redeems a campaign's coupons: AUC
  {ours["redeem"]["auc"]:.3f}, {ours["redeem"]["auc_within"]:.3f} within a campaign, lift
  {ours["redeem"]["lift@10%"]:.1f} in the first tenth (`python eval/cj_redeem.py`, commit {redeem["commit"][:7]}). Who
  buys at all in the next 28 days: AUC {ours["active"]["auc"]:.3f}, ECE {ours["active"]["ece"]:.3f} (number of baskets:
  {active["systems"]["number of baskets"]["ALL"]["auc"]:.3f}; `python eval/cj_active28.py`, commit
  {active["commit"][:7]}).
- **Whom to reach.** Of the first 50 people for each of {reach["items"]} items
  {100 * first["recllm"]:.1f} % buy it within 28 days; by past buyers' frequency
  {100 * first["frequency of past buyers"]:.1f} %, by their recency
  {100 * first["recency of past buyers"]:.1f} %, by LightGBM on the same features
  {100 * first["lightgbm, same features"]:.1f} %, a tie (`python eval/audience.py`, commit {reach["commit"][:7]})."""


def speed() -> str:
    whole = load("speed")
    found = whole["figures"]
    return f"""- **Speed** on {whole["hardware"]["cores"]} cores (`python eval/speed.py`, commit {whole["commit"][:7]}):
  ingest {found["ingest rows/s"]:,} rows/s with {found["ingest peak MiB"]} MiB;
  the catalogue encoded {found["encode ratio"]:.1f} times as fast as by a plain `SentenceTransformer.encode`;
  a workspace trained, encoding included, in {found["train seconds"]:.0f} s;
  top 20 of 64,864 items for {found["top20 people"]:,} people in {found["top20 seconds"]:.0f} s;
  one warm answer {found["recommend ms"]:.0f} ms,
  with reasons {found["recommend with reasons ms"]:.0f} ms;
  an audience with reasons for one item {found["audience of 1 item s"]:.1f} s, for 50 items
  {found["audience of 50 items s"]:.1f} s; a prediction for everybody, learning included, {found["predict s"]:.0f} s."""


def path_of(name: str) -> Path:
    return ROOT / "eval" / "results" / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path_of(name).read_text(encoding="utf-8"))
    return found


def cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
