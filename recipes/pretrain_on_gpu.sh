#!/bin/sh
# What takes days on two cores in minutes of a lent GPU: DenseCL on a folder of photographs.
#
#   sh recipes/pretrain_on_gpu.sh pack PHOTOS pack.tar        # here: short sides of 192 pixels, at most 60 MB
#   sh recipes/pretrain_on_gpu.sh train pack.tar OUT MINUTES  # there: OUT/backbone.safetensors, under 16 MB
#
# `train` times 50 steps first and takes as many as fit into the minutes. It resumes from OUT/run when repeated with
# the same number; `STEPS=N` before it sets that by hand. It wants Soloist's Python as `python`, or as $PYTHON.
set -eu
python=${PYTHON:-python}

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

pack() {
    "$python" - "$1" "$2" <<'PYTHON'
import io, sys, tarfile
from pathlib import Path
from PIL import Image

LIMIT, SHORT_SIDE, QUALITY = 60_000_000, 192, 80
photos = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
if not photos:
    sys.exit(f"{sys.argv[1]}: wanted a folder of .jpg or .png files, found none")
with tarfile.open(sys.argv[2], "w") as archive:
    for number, photo in enumerate(photos):
        with Image.open(photo) as image:
            image.draft("RGB", (2 * SHORT_SIDE, 2 * SHORT_SIDE))
            share = min(1.0, SHORT_SIDE / min(image.size))
            small = image.convert("RGB").resize([max(1, round(side * share)) for side in image.size], Image.Resampling.BICUBIC)
        content = io.BytesIO()
        small.save(content, "JPEG", quality=QUALITY)
        entry = tarfile.TarInfo(f"{number:06d}.jpg")
        entry.size = content.tell()
        content.seek(0)
        archive.addfile(entry, content)
        if archive.offset > LIMIT:
            print(f"{number + 1} of {len(photos)} photographs fit into {LIMIT // 1_000_000} MB")
            break
    else:
        print(f"{len(photos)} photographs, {archive.offset / 1e6:.0f} MB")
PYTHON
}

pretrain() { # OUT STEPS
    "$python" -m soloist pretrain "$pack" --out "$1" --backbone.weights none --pretrain.steps "$2" \
        --pretrain.batch-size "${BATCH:-256}" --pretrain.warmup-steps "$(($2 / 20 + 1))"
}

train() {
    pack=$1 out=$2 minutes=$3
    mkdir -p "$out"
    if [ -z "${STEPS:-}" ] && [ -f "$out/steps" ]; then
        STEPS=$(cat "$out/steps")
    elif [ -z "${STEPS:-}" ]; then
        pretrain "$out/warm" 10 # compiles kernels, fills caches
        start=$(date +%s)
        pretrain "$out/timed" 50
        seconds=$(($(date +%s) - start))
        STEPS=$((minutes * 60 * 50 / (seconds > 0 ? seconds : 1)))
        rm -r "$out/warm" "$out/timed"
        echo "50 steps took $seconds s with their start: $STEPS steps in $minutes minutes"
    fi
    echo "$STEPS" > "$out/steps"
    [ -f "$out/run/model/backbone.safetensors" ] || pretrain "$out/run" "$STEPS"
    # Three stages, as the presets `small`, `tiny` and `soloist` use: the last served pretraining alone.
    "$python" - "$out/run/model" "$out/backbone.safetensors" <<'PYTHON'
import sys
from pathlib import Path
from soloist.checkpoints.files import load_tensors, save_tensors

model = Path(sys.argv[1])
kept = {name: one for name, one in load_tensors(model / "backbone.safetensors").items() if not name.startswith("layer4")}
save_tensors(Path(sys.argv[2]), kept, metadata={"soloist": (model / "config.json").read_text(encoding="utf-8")})
PYTHON
    ls -l "$out/backbone.safetensors"
}

case "${1:-}" in
    pack) [ $# -eq 3 ] || usage; pack "$2" "$3" ;;
    train) [ $# -eq 4 ] || usage; train "$2" "$3" "$4" ;;
    *) usage ;;
esac
