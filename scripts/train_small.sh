#!/bin/sh
# The whole chain on the music that comes with the repository: train a codec, encode, train a transformer, save a
# pipeline, generate three pieces. About ten minutes on two cores. Run it through `make chain`, or with the kit
# installed:
#
#     sh scripts/train_small.sh outputs/chain
set -eu
out=${1:-outputs/chain}
music=scripts/demo_music
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(python -c 'import os; print(os.cpu_count())')}
export OMP_NUM_THREADS
launch="accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"

echo "1/5 training a test-size codec on $music"
$launch scripts/train_autoencoder.py --config scripts/configs/autoencoder_test.yaml \
    --data_dir $music/train --validation_dir $music/test --output_dir "$out/codec"

echo "2/5 encoding the music to latents"
for split in train test; do
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
sh scripts/demo.sh "$out" "$out/pipeline"
echo "They show that the chain runs from end to end, and little more: minutes on a CPU are short for either training."
