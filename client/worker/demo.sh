#!/usr/bin/env bash
# Runs the demo: the sidecar as one process, the reference worker as another.
#   demo.sh BUILD_DIR MODEL OUT_DIR [DEVICE [WORKER_OPTION...]]
# BUILD_DIR holds the two executables. DEVICE is where caches lie and attention runs, host (the default) or cuda; worker
# options are those of `kvsteward-worker demo`, such as --prompts. Writes config.yaml, sidecar.log, report.json and
# report.html into OUT_DIR. Exits 0 only if every row succeeded and the sidecar ended in order.
set -euo pipefail

build=$1 model=$2 out=$3 device=${4:-host}
shift $(($# < 4 ? $# : 4))
mkdir -p "$out"
# Socket paths may have 107 bytes only, so they do not lie in OUT_DIR.
sockets=$(mktemp -d)
sidecar=

stop_sidecar() {
  [[ -n $sidecar ]] || return 0
  kill -TERM "$sidecar" 2>/dev/null || true
  local status=0
  wait "$sidecar" || status=$?
  sidecar=
  return "$status"
}
# shellcheck disable=SC2317  # called by the trap
clean_up() {
  stop_sidecar || true
  rm -rf "$sockets"
}
trap clean_up EXIT

{
  cat <<EOF
listen:
  address: unix:$sockets/kvsteward.sock
  admin: unix:$sockets/admin.sock
device:
  kind: $device
tenants:
  - name: demo
    fd_socket: $sockets/demo.sock
EOF
  "$build/kvsteward-worker" arena-config --model "$model" --device "$device"
} >"$out/config.yaml"

"$build/kvsteward" serve --config "$out/config.yaml" >"$out/sidecar.log" 2>&1 &
sidecar=$!
for ((tries = 0; ; ++tries)); do
  "$build/kvsteward" health --address "unix:$sockets/kvsteward.sock" >/dev/null 2>&1 && break
  if ((tries == 100)) || ! kill -0 "$sidecar" 2>/dev/null; then
    echo "demo: the sidecar did not start; $out/sidecar.log says:" >&2
    tail -n 20 "$out/sidecar.log" >&2
    exit 1
  fi
  sleep 0.1
done

"$build/kvsteward-worker" demo --address "unix:$sockets/kvsteward.sock" --fd-socket "$sockets/demo.sock" \
  --model "$model" --device "$device" --out-json "$out/report.json" --out-html "$out/report.html" "$@"
if ! stop_sidecar; then
  echo "demo: the sidecar did not end in order; see $out/sidecar.log" >&2
  exit 1
fi
echo "Reports: $out/report.json and $out/report.html"
