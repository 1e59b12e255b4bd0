#!/bin/bash
# Makes everything here.  Run from this folder with OLD (a checkout of the old version) and PYTHON (its interpreter) set.
set -eu
export PYTHONPATH="$OLD" JAX_PLATFORMS=cpu
old() { nice -n 5 "$PYTHON" "$OLD/launch/$1.py" "${@:2}"; }
new_run() { rm -rf "$1/tensorboard" "$1/pictures" "$1/parameters.txt"; }  # not needed to load or to resume

# 1. a tokenizer, two steps
tokenizer_flags() {
  echo --config=$OLD/configs/simvq.py:tiny --config.data.source=embedded:digits --config.data.augmentation=resize_crop \
    --noconfig.data.flip --config.objective.discriminator= --config.model.channels=4 --config.model.codebook_size=16 \
    --config.model.codebook_dim=4 --config.train.ema_decay=0 --config.train.keep=1 --config.train.checkpoint_every=2 \
    --config.train.log_every=1 --config.train.devices=1 --config.optimizer.schedule=constant --config.evaluate.pictures=0
}
old train $(tokenizer_flags) --workdir=runs/simvq
new_run runs/simvq
# 2. as a file
mkdir -p models
old export --run=runs/simvq --out=models/simvq.safetensors --note='random digits, two steps'
old export --run=runs/simvq --out=models/simvq_half.safetensors --half
# 3. tokens of a few digits, and a generator of classes, of pictures
mkdir -p pictures compressed converted
nice -n 5 "$PYTHON" make.py pictures
old extract_tokens --run=runs/simvq --source=pictures/digits.zip --image_size=8 --views=centre --out=tokens
rm -f tokens/.lock
generator_flags() {
  echo --config=$OLD/configs/llamagen.py:tiny --config.data.source=embedded:digits --config.data.image_size=8 \
    --config.tokenizer=runs/simvq --config.train.ema_decay=0 --config.train.keep=1 --config.train.checkpoint_every=2 \
    --config.train.log_every=1 --config.train.devices=1 --config.optimizer.schedule=constant --config.evaluate.per_class=0
}
old train $(generator_flags) --workdir=runs/llamagen
new_run runs/llamagen
# 4. official weights, converted
nice -n 5 "$PYTHON" make.py official
for name in llamagen_gpt patchgan; do
  old convert --name=$name --input=converted/${name}_official.safetensors --output=converted/$name.safetensors
done
# 5. compression: what lies beside models/simvq.safetensors, and bitstreams
old fit_prior --weights=models/simvq.safetensors --pictures=24 --crop=64
old nest_codebook --weights=models/simvq.safetensors --pictures=24 --crop=64 --sizes=8,4
w=--weights=models/simvq.safetensors
old compress pictures/wave.png compressed/plain.bin $w --prior=
old compress pictures/wave.png compressed/prior.bin $w
old compress pictures/wave.png compressed/nested.bin $w --codewords=4
old compress pictures/wave.png compressed/packets.bin $w --packets=2
old compress pictures/gradient.png compressed/shipped.bin
old decompress compressed/plain.bin compressed/plain.png $w  # of prior.bin and packets.bin too: the same ids
old decompress compressed/nested.bin compressed/nested.png $w
old decompress compressed/shipped.bin compressed/shipped.png
# 6. statistics of pictures, clusters of codewords
old reference_statistics --source=pictures/flat.npz --protocol=stand_in --out=statistics.npz
nice -n 5 "$PYTHON" make.py repack
old cluster_codebook --run=models/simvq.safetensors --clusters=4 --restarts=2 --output=clusters.safetensors
# Orbax says in these files where a checkpoint was written; nothing reads it.
find runs -name commit_success.txt -exec sed -i "s#$PWD/##" {} +
# 7. what copies of the runs do in two further steps (in a folder outside), and what everything gives
copies=$(mktemp -d)
cp -r runs/simvq runs/llamagen "$copies"
old train $(tokenizer_flags) --workdir="$copies/simvq" --config.train.steps=4
old train $(generator_flags) --workdir="$copies/llamagen" --config.train.steps=4
nice -n 5 "$PYTHON" make.py expected "$copies"
rm -r "$copies"
