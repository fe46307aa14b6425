#!/usr/bin/env bash
# The whole method in run order, from a manifest to scores: bash docs/pipeline.sh [MANIFEST [OUT]]
# As it stands it runs on the small slide that comes with the project, a few steps of each training: minutes on two cores.
# In earnest: your manifest, DATASET=brca-m2c DATA=data/brca_m2c (or ocelot, puma, lab), PRETRAIN_STEPS=1500, FINETUNE_STEPS=1000.
set -euo pipefail
MANIFEST=${1:-data_manifests/sample.csv}
OUT=${2:-runs/pipeline}
DATASET=${DATASET:-lab}
DATA=${DATA:-$OUT/dots}
PRETRAIN_STEPS=${PRETRAIN_STEPS:-4}
FINETUNE_STEPS=${FINETUNE_STEPS:-4}
PATH=$PWD/.venv/bin:$PATH

# 1. Every row of the manifest is checked before anything is fetched: names, files, checksums, um/px.
muse manifest check "$MANIFEST"

# 2. Slides to a dataset of ROIs: tissue is found, fields of 512 um are chosen in it, a small network finds their nuclei.
muse build-tcga-nu --manifest "$MANIFEST" --out "$OUT/rois" --set rois.size_px=1024

# 3. ROIs to a backbone, without labels: a student learns to say of each nucleus what its teacher says of it in another view.
muse pretrain --rois "$OUT/rois" --out "$OUT/muse" --resume --set steps="$PRETRAIN_STEPS" --set batch_size=2

# 4. How well the backbone tells labelled nuclei apart, by its nearest neighbours (published datasets only).
if [ "$DATASET" != lab ]; then
  muse evaluate knn --dataset "$DATASET" --data "$DATA" --split val --checkpoint "$OUT/muse/muse-backbone.safetensors"
fi

# 5. Labels. Where none are given, what the weights that ship find on the slide stands in for dots, to show the way.
if [ "$DATASET" = lab ] && [ ! -d "$DATA" ]; then
  muse infer --slides "$MANIFEST" --out "$OUT/shipped"
  mkdir -p "$DATA/images" "$DATA/labels"
  cp data_manifests/sample/ihc-colon-small.svs "$DATA/images/"
  muse export qupath --nuclei "$OUT/shipped" --slide-id ihc-colon-small --out "$DATA/labels/ihc-colon-small.geojson"
fi

# 6. Backbone and labels to a network that finds and names nuclei; its scores on validation are printed by every rule.
muse finetune --dataset "$DATASET" --data "$DATA" --init "$OUT/muse/muse-backbone.safetensors" --out "$OUT/ndc" \
  --resume --set steps="$FINETUNE_STEPS" --set batch_size=2

# 7. The same on a published split, beside the paper's figures.
if [ "$DATASET" != lab ]; then
  muse evaluate ndc --dataset "$DATASET" --data "$DATA" --split val --checkpoint "$OUT/ndc/ndc.safetensors"
fi

# 8. Whole slides to a table of nuclei, by the new network, which after a few steps finds none yet; what is finished is skipped when this is run again.
muse infer --slides "$MANIFEST" --out "$OUT/nuclei" --checkpoint "$OUT/ndc/ndc.safetensors"

# 9. The page to look at. For QuPath, a slide at a time: muse export qupath --nuclei ... --slide-id ... --out S1.geojson
muse report --nuclei "$OUT/nuclei" --out "$OUT/report.html"
