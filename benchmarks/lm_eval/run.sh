#!/bin/sh
# The demo model's held-out tasks through the server by lm-evaluation-harness: prints the harness' table.
#     sh benchmarks/lm_eval/run.sh WORK      # a folder; the harness is installed into it
set -e
work=$1
[ -n "$work" ] || { sed -n 2,3p "$0"; exit 2; }
mkdir -p "$work"
work=$(cd "$work" && pwd)
if [ ! -x "$work/venv/bin/lm_eval" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet 'lm-eval[api]'
fi
python benchmarks/lm_eval/prepare.py "$work/tasks" >&2
edge-lfm serve --port 8124 > "$work/server.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
until curl -sf http://127.0.0.1:8124/health > /dev/null; do kill -0 $server || exit 1; sleep 0.3; done
"$work/venv/bin/lm_eval" --model local-completions --tasks demo_translate,demo_pattern --include_path "$work/tasks" \
    --model_args model=edge-lfm-demo,base_url=http://127.0.0.1:8124/v1/completions,num_concurrent=4,tokenizer_backend=remote \
    > "$work/lm_eval.log" 2> "$work/lm_eval.err" || { tail -20 "$work/lm_eval.err" >&2; exit 1; }
grep '^|' "$work/lm_eval.log"
