#!/bin/sh
# The whole chain on the music that comes with the repository: train a codec, encode, train a transformer, save a
# pipeline, generate three pieces. About ten minutes on two cores. With a bundled model (docs/demo_model.md) only the
# three pieces are generated. Run it through `make demo`, or with the kit installed:
#
#     sh scripts/demo.sh outputs/demo
set -eu
out=${1:-outputs/demo}
bundled=${BUNDLED_MODEL:-pipelines/demo_model}

generate() { # pipeline folder
    python scripts/generate.py "lofi piano beat" --pipeline "$1" --output "$out/lofi_piano_beat.wav"
    python scripts/generate.py "slow ambient pads" --pipeline "$1" --output "$out/slow_ambient_pads.wav"
    python scripts/generate.py "driving techno, 130 bpm" --pipeline "$1" --output "$out/driving_techno.wav"
}

if [ -f "$bundled/model_index.json" ]; then
    mkdir -p "$out"
    generate "$bundled"
    echo "The pieces and their spectrograms are $out/*.wav and $out/*.png; the model is $bundled."
    exit
fi
music=scripts/demo_music
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(python -c 'import os; print(os.cpu_count())')}
export OMP_NUM_THREADS
launch="accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"

echo "1/5 training a test-size codec on $music"
$launch scripts/train_autoencoder.py --config scripts/configs/autoencoder_test.yaml \
    --data_dir $music/train --validation_dir $music/test --output_dir "$out/codec"

echo "2/5 encoding the music to latents"
for split in train test; do
    [ -f "$out/latents/$split/statistics.json" ] ||
        $launch scripts/encode_dataset.py --data_dir "$music/$split" --autoencoder "$out/codec/autoencoder" \
            --output_dir "$out/latents/$split"
done

echo "3/5 training a test-size transformer on the latents"
$launch scripts/train_latent_dit.py --config scripts/configs/latent_dit_test.yaml \
    --data_dir "$out/latents/train" --validation_dir "$out/latents/test" --autoencoder "$out/codec/autoencoder" \
    --output_dir "$out/dit"

echo "4/5 saving the pipeline"
python scripts/save_pipeline.py --autoencoder "$out/codec/autoencoder" --transformer "$out/dit/transformer" \
    --output_dir "$out/pipeline"

echo "5/5 generating"
generate "$out/pipeline"

echo
echo "The pieces and their spectrograms are $out/*.wav and $out/*.png, the pipeline is $out/pipeline."
echo "They show that the chain runs from end to end, and nothing more: after a few minutes on a CPU the codec hardly"
echo "listens to its latents, so every prompt gives much the same coloured noise. A good codec takes days on a GPU."
