"""Write the README's results from the files in eval/results:  python eval/readme_results.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SLICES = ("ALL", "NEW", "COLD")
ABOUT = {
    "cj-next28": "Complete Journey (simulated from real shopping patterns, by its package's own word): the whole "
    "catalogue of 64,864 items ranked for everyone who buys in the 28 days from 2017-12-01. NDCG@20; ALL: what they "
    "buy, NEW: only what they never bought, COLD: first sold in the window, ranked among themselves. The peers' "
    "settings were tuned on the window before (`eval/peers.toml`); boosted trees and "
    "sequence models are not among them yet.",
    "or-next28": "UCI Online Retail, a real web shop: 3,624 items, the last four weeks. NDCG@20, the same defaults.",
}


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    body = "\n".join(section(name) for name in ABOUT) + "\n" + others()
    fresh = f"<!-- results -->\n{body}\n<!-- end of results -->"
    pattern = r"<!-- results -->(.*?<!-- end of results -->)?"
    readme.write_text(re.sub(pattern, lambda _: fresh, text, count=1, flags=re.DOTALL), encoding="utf-8")


def section(name: str) -> str:
    found = load(name)
    systems = found["systems"]
    columns = [s for s in SLICES if any(s in scores for scores in systems.values())]
    lines = ["| system | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for system, scores in sorted(systems.items(), key=lambda pair: -pair[1].get("ALL", {}).get("ndcg@20", 0.0)):
        cells = (cell(scores.get(s, {}).get("ndcg@20")) for s in columns)
        label = f"**{system}**" if system == "recllm" else system
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    commit, digest, seed = str(found["commit"])[:7], found["data_hash"], found["seed"]
    record = f"`python eval/run.py {name}`, commit {commit}, data {digest}, seed {seed}"
    return f"{ABOUT[name]}\n\n<!-- {name}.json -->\n" + "\n".join(lines) + f"\n\n{record}.\n"


def others() -> str:
    copy, why, speed = load("copy-models"), load("explanations"), load("speed")["figures"]
    drop = {name: slices["ALL"]["comprehensiveness@1"] for name, slices in why["systems"].items()}
    cores = load("speed")["hardware"]["cores"]
    return f"""- **Reasons.** Taking away the piece of evidence that is named first lowers the score by
  {drop["recllm"]:.2f} of the range of the person's first 20 scores; the one nearest in text by
  {drop["cosine"]:.2f}, the most recent one by
  {drop["recency"]:.2f}, a random one by {drop["random"]:.3f} ({why["pairs"]} held-out purchases,
  `python eval/explanations.py`).
- **Ad text.** {copy["verified"]} of {copy["total"]} texts verified; {100 * copy["kept_share"]:.0f} % kept the opening
  words of a 135M-parameter model, the rest took the shop's own lines (`python eval/copy_models.py`). Such a model's
  words are simple and sometimes flat; a larger one takes its place by name.
- **Speed** on {cores} cores (`python eval/speed.py`): ingest {speed["ingest rows/s"]:,} rows/s with
  {speed["ingest peak MiB"]} MiB; the catalogue encoded {speed["encode ratio"]:.1f} times as fast as by a plain
  `SentenceTransformer.encode`; a workspace trained, encoding included, in {speed["train seconds"]:.0f} s;
  top 20 of 64,864 items for {speed["top20 people"]:,} people in {speed["top20 seconds"]:.0f} s;
  one warm answer {speed["recommend ms"]:.0f} ms,
  with reasons {speed["recommend with reasons ms"]:.0f} ms."""


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "eval" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
