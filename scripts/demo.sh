#!/bin/sh
# Three pieces of music, from the bundled model or from the pipeline folder given:
#
#     sh scripts/demo.sh outputs/demo [pipeline]
set -eu
out=${1:-outputs/demo}
pipeline=${2:-$(dirname "$0")/../pipelines/demo_model}
generate() {
    python "$(dirname "$0")/generate.py" "$1" --pipeline "$pipeline" --output "$out/$2.wav"
}
mkdir -p "$out"
generate "lofi piano beat" lofi_piano_beat
generate "slow ambient pads" slow_ambient_pads
generate "driving techno, 130 bpm" driving_techno
echo
echo "The pieces and their spectrograms are $out/*.wav and $out/*.png, the model is $pipeline."
