#!/usr/bin/env bash
# One TPU VM or a whole pod slice: `tpu.sh create | install | train CONFIG [--field value ...] | logs | kill | delete`.
# The same commands serve both, since --worker=all is one worker on a single VM.
set -euo pipefail

: "${NAME:=jaxprefix}" "${ZONE:=us-west4-a}" "${TYPE:=v5litepod-16}" "${VERSION:=v2-alpha-tpuv5-lite}"
: "${FOLDER:=gs://${BUCKET:?a Cloud Storage bucket}/runs/$NAME}"   # of the run: all workers must see it
REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)

everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

case "${1:?create, install, train, logs, kill or delete}" in
  create)
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" --spot ;;
  install)
    gcloud compute tpus tpu-vm scp --recurse "$REPOSITORY" "$NAME:jaxprefix" --zone="$ZONE" --worker=all
    everywhere "cd jaxprefix && pip install -q -e '.[tpu,gcs]'" ;;
  train)
    shift
    # The compiled programs lie beside the run, so that a slice made anew compiles nothing again. Every worker has a log;
    # that of worker 0 has the metrics, which also lie in $FOLDER/metrics.jsonl.
    everywhere "cd jaxprefix && mkdir -p ~/logs && JAX_COMPILATION_CACHE_DIR=$FOLDER/compiled nohup \
      python3 train.py $* --distributed on --folder $FOLDER > ~/logs/train.txt 2>&1 & sleep 5; tail -n 3 ~/logs/train.txt" ;;
  logs)
    everywhere "tail -n 20 ~/logs/train.txt" ;;
  kill)
    # A worker that hangs holds its chips: the next run would find them busy.
    everywhere "pkill -TERM -f train.py; sleep 20; pkill -KILL -f train.py; rm -f /tmp/libtpu_lockfile; true" ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet ;;
  *)
    echo "tpu.sh: there is no action $1; it is create, install, train, logs, kill or delete" >&2; exit 2 ;;
esac
