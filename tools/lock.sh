#!/usr/bin/env bash
# Pins every requirement with its hashes and without any index address. Needs uv: pip install uv
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for name in unit demo dev bench; do
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "$@" "$name.in" -o "$name.txt"
done
