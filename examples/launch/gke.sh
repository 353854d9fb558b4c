#!/usr/bin/env bash
# A slice of a GKE cluster, by xpk (pip install xpk), which submits a JobSet: `gke.sh CONFIG [--field value ...]`.
set -euo pipefail

: "${NAME:=jaxprefix}" "${CLUSTER:?the GKE cluster}" "${PROJECT:?the project}" "${ZONE:=us-west4-a}"
: "${TYPE:=v5litepod-16}" "${SLICES:=1}" "${BUCKET:?a Cloud Storage bucket for the run}"
: "${IMAGE:=python:3.12-slim}"
cd "$(dirname "$0")/../.."

# xpk puts this folder on top of the image. --max-restarts starts the whole JobSet again when a pod is taken away; the run
# then goes on. With several slices add --mesh.slices. Logs: `kubectl logs -l jobset.sigs.k8s.io/jobset-name=$NAME`, or
# Cloud Logging. A stuck workload: `xpk workload delete --workload $NAME --cluster $CLUSTER`.
xpk workload create --workload "$NAME" --cluster "$CLUSTER" --project "$PROJECT" --zone "$ZONE" \
  --tpu-type "$TYPE" --num-slices "$SLICES" --base-docker-image "$IMAGE" --script-dir . --max-restarts 10 \
  --env JAX_COMPILATION_CACHE_DIR="gs://$BUCKET/runs/$NAME/compiled" \
  --command "pip install -q -e '.[tpu,gcs]' && python train.py $* --distributed on --folder gs://$BUCKET/runs/$NAME"
