#!/usr/bin/env bash
# Every figure of the README and of eval/results, one after the other; needs the extras bench, demo, gguf and serve.
set -euo pipefail
cd "$(dirname "$0")/.."
results=eval/results
simple=random,popular,popular-recent,personal-frequency,user-knn,zero-shot
peers=tifu-knn,slrc,taiw,ease,als,bm25,lightgbm,sasrec
for protocol in cj-next28 or-next28; do
  python eval/run.py "$protocol" --systems "recllm,$simple,$peers" -o "$results/$protocol.json"
done
python eval/run.py industrial-time --systems "recllm,$simple,$peers" -o "$results/industrial-time.json"
python eval/run.py beauty-loo --systems "recllm,popular,personal-frequency,tifu-knn,ease,als,sasrec" \
  -o "$results/beauty-loo.json"
python eval/run.py or-carts --systems recllm,popular,ease -o "$results/or-carts.json"
python eval/ablation.py industrial-time -o "$results/ablation-industrial-time.json"
python eval/ablation.py cj-next28 --slices ALL,NEW,COLD -o "$results/ablation-cj-next28.json"
python eval/catalogue_coverage.py -o "$results/coverage-cj-next28.json"
python eval/offers.py -o "$results/offers.json"
python eval/audience.py -o "$results/audience.json"
python eval/cj_redeem.py -o "$results/cj-redeem.json"
python eval/cj_active28.py -o "$results/cj-active28.json"
python eval/uplift.py -o "$results/uplift.json"
python eval/uplift_real.py -o "$results/uplift-real.json"
pip download -q obp==0.4.1 --no-deps -d "${wheels:=$(mktemp -d)}"
python eval/experiments.py --open-bandit "$wheels"/obp-0.4.1-*.whl -o "$results/experiments.json"
python eval/explanations.py -o "$results/explanations.json"
python eval/copy_guarantees.py -o "$results/copy-guarantees.json"
nice python eval/small_shops.py --parts "${tuned:=$(mktemp -d)}/small-shops" -o "$results/small-shops.json"
python eval/speed.py -o "$results/speed.json"
python eval/attack.py -o "$results/attack.json"
recllm start --demo -w "$tuned/demo"
python eval/serve.py -w "$tuned/demo" -o "$results/serve.json"
python eval/send.py -o "$results/send.json"
python eval/walk.py -o "$results/walk.json"
python eval/scale.py --model "$tuned/demo/models" -o "$results/scale.json"
python eval/results_page.py
