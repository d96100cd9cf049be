#!/bin/sh
# The bundled demo model from its music on; see scripts/train_demo.py, which takes the options. A kit in demo_kit/ is
# unpacked and used. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -f demo_kit/demo_kit.tar.xz ]; then
    [ -d demo_kit/unpacked ] || { "$python" -m tarfile -e demo_kit/demo_kit.tar.xz demo_kit/unpacking && mv demo_kit/unpacking demo_kit/unpacked; }
    export PYTHONPATH="$PWD/demo_kit/unpacked/python${PYTHONPATH:+:$PYTHONPATH}"
    set -- --kit demo_kit/unpacked "$@"
fi
exec "$python" scripts/train_demo.py "$@"
