#!/usr/bin/env bash
# All that is to be done on a machine with a card, which may be lent for a few minutes only:
#
#   bash benchmarks/gpu.sh tests        less than 6 minutes
#   bash benchmarks/gpu.sh benchmark    less than 6 minutes
#
# Both leave what they print in the folder OUT (benchmarks/results if it is not set), the benchmark
# gpu.json too; both end by themselves. The table that the benchmark prints last is for the section
# "On a GPU" of docs/user_guide/performance.rst, with the name of the card.
# SKTRANSFER_TEST_DEVICE=cpu and --device cpu run the same small. PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-benchmarks/results}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python}"
what="${1:-}"
shift || true
case "$what" in
tests)
    # Whole minutes would go into collecting all else.
    timeout 360 "$python" -m pytest -m gpu -p no:cacheprovider --durations=15 -rs \
        tests/test_gpu.py tests/test_array_api.py tests/frozen/test_device.py "$@" 2>&1 |
        tee "$out/gpu_tests.txt"
    ;;
benchmark)
    timeout 400 "$python" benchmarks/gpu.py --results "$out" "$@" 2>&1 | tee "$out/gpu.txt"
    ;;
*)
    echo "usage: bash benchmarks/gpu.sh tests|benchmark [arguments of pytest or gpu.py]" >&2
    exit 2
    ;;
esac
