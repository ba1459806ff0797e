#!/bin/sh
# Types and layer rules, checked on an installed wheel: the top-level folders become one package only there.
# Usage: sh tools/check_installed.sh BIN, with the folder of a virtual environment's programs.
set -eu
bin=$(cd "$1" && pwd)
root=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/pip" wheel --quiet --no-deps --wheel-dir "$work/wheel" "$root"
"$bin/pip" install --quiet --no-deps --target "$work/site" "$work"/wheel/*.whl
cp "$root/pyproject.toml" "$work/pyproject.toml"
cd "$work"
PYTHONPATH="$work/site" "$bin/lint-imports" --config "$root/.importlinter"
cd "$work/site"
"$bin/mypy" --config-file "$root/pyproject.toml" -p edge_lfm
