#!/bin/sh
# The bundled model, as two CPU cores train it in about an hour and a half; scripts/train_demo.sh is for a GPU. Stopped, it
# goes on. Needs the extras train and demo, and Debian's mma, libfluidsynth3, hyperrogue-music and
# musescore-general-soundfont-small.
#
#     sh scripts/train_demo_cpu.sh outputs/demo_cpu
set -eu
out=${1:-outputs/demo_cpu}
scripts=$(dirname "$0")
python=${PYTHON:-python}
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$("$python" -c 'import os; print(os.cpu_count())')}
# glibc gives freed memory back after each step and gets it again page by page: a sixth of the step's time
export OMP_NUM_THREADS MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
clips="--channels 1 --format wav --clip_seconds 10"

[ -f "$out/music/LICENSE" ] || "$python" "$scripts/make_demo_dataset.py" --output_dir "$out/music" --minutes 240 \
    --sources '[patterns, grooves]' --shares '[3, 1]' --test_fraction 0.06 --seed 5 $clips
[ -f "$out/recordings/LICENSE" ] || "$python" "$scripts/make_demo_dataset.py" --output_dir "$out/recordings" \
    --minutes 30 --sources '[recordings]' --packages '[hyperrogue-music]' --test_fraction 0.1 $clips

mkdir -p "$out/codec_music"
ln -sfn "$(realpath "$out/music/train")" "$out/codec_music/synth"
for copy in 1 2 3; do # recordings are few, and the harder part
    ln -sfn "$(realpath "$out/recordings/train")" "$out/codec_music/rec$copy"
done
"$python" "$scripts/train_autoencoder.py" --config "$scripts/configs/autoencoder_demo.yaml" --max_steps 2700 \
    --batch_size 4 --warmup_steps 30 --ema_decay 0.995 --last_gap 0.1 --magnitude_share 0.5 --mixed_precision no \
    --num_workers 1 --log_every 20 --validate_every 600 --checkpoint_every 150 \
    --data_dir "$out/codec_music" --validation_dir "$out/music/test" --output_dir "$out/codec"
for split in train test; do
    "$python" "$scripts/encode_dataset.py" --data_dir "$out/music/$split" --autoencoder "$out/codec/autoencoder" \
        --output_dir "$out/latents/$split"
done
"$python" "$scripts/train_latent_dit.py" --config "$scripts/configs/latent_dit_demo.yaml" \
    --model '{num_layers: 6, num_attention_heads: 3}' --max_seconds 10 --max_steps 3500 --batch_size 16 \
    --learning_rate 1.0e-3 --warmup_steps 100 --mixed_precision no --compile false --num_workers 0 --validate_every 1750 \
    --data_dir "$out/latents/train" --validation_dir "$out/latents/test" --autoencoder "$out/codec/autoencoder" \
    --output_dir "$out/dit"
"$python" "$scripts/save_pipeline.py" --autoencoder "$out/codec/autoencoder" --transformer "$out/dit/transformer" \
    --include_text_encoder false --dtype float16 --max_shard_size 15MB --output_dir "$out/model"
cat "$out/music/CREDITS.md" "$out/recordings/CREDITS.md" > "$out/model/CREDITS.md"
echo "The model is $out/model; put it in the place of pipelines/demo_model to bundle it, with a README.md of its own."
