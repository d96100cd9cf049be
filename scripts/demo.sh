#!/bin/sh
# Three pieces of music, from the bundled model or from the pipeline folder given:
#
#     sh scripts/demo.sh outputs/demo [pipeline]
set -eu
out=${1:-outputs/demo}
pipeline=${2:-$(dirname "$0")/../pipelines/demo_model}
generate() {
    name=$1
    shift
    python "$(dirname "$0")/generate.py" "$@" --pipeline "$pipeline" --output "$out/$name.wav"
}
mkdir -p "$out"
generate lofi_piano_beat "lofi piano beat"
generate slow_ambient_pads "slow ambient pads in C major"
generate driving_techno "driving techno" --tempo 130 --key "F minor"
echo
echo "The pieces and their spectrograms are $out/*.wav and $out/*.png, the model is $pipeline."
