#!/usr/bin/env bash
# Waits for a spot slice, trains on it, and asks for another one when it is taken away, until the run is done:
# `queued.sh CONFIG [--field value ...]`. What the run leaves lies in a bucket, which outlives the slice.
set -euo pipefail

: "${NAME:=jaxprefix}" "${ZONE:=us-west4-a}" "${TYPE:=v5litepod-16}" "${VERSION:=v2-alpha-tpuv5-lite}"
: "${BUCKET:?a Cloud Storage bucket for the run}"
REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)
FOLDER=gs://$BUCKET/runs/$NAME

request() { gcloud compute tpus queued-resources "$@" --zone="$ZONE"; }
state() { request describe "$NAME" --format='value(state.state)' 2>/dev/null || echo ABSENT; }
everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

while true; do
  case "$(state)" in
    ABSENT)
      request create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" --spot ;;
    FAILED | SUSPENDED)
      request delete "$NAME" --force --quiet ;;
    ACTIVE)
      gcloud compute tpus tpu-vm scp --recurse "$REPOSITORY" "$NAME:jaxprefix" --zone="$ZONE" --worker=all
      everywhere "cd jaxprefix && pip install -q -e '.[tpu,gcs]'"
      # The same command goes on from the last checkpoint, on a slice of any size.
      everywhere "cd jaxprefix && JAX_COMPILATION_CACHE_DIR=$FOLDER/compiled \
        python3 train.py $* --distributed on --folder $FOLDER 2>&1 | tee -a ~/train.txt" || true
      if gcloud storage ls "$FOLDER/adapter/" > /dev/null 2>&1; then  # a run that was stopped leaves none
        request delete "$NAME" --force --quiet
        exit 0
      fi ;;
  esac
  sleep "${WAIT:-60}"
done
