#!/usr/bin/env bash
# Runs everything that a GPU is needed for, out of a bundle that ./dev gpu-bundle made, and prints one table last.
#   tests/gpu/run.sh [--only NAME[,NAME...]] [--out FOLDER] [--seconds N] [BUNDLE]
# NAME     a part (kernels, contract, vmm, demo, sanitize, bench, torch, ncu, busy) or one of its programs, e.g. score
# FOLDER   where results.json, table.txt, log.txt and the parts' own JSON go (default: $OUT, else gpu-results)
# N        after so many seconds nothing is started or goes on (default: 570)
# BUNDLE   default: the folder of this script if it is in a bundle, else build/gpu-bundle
# Needs bash, coreutils, awk and a driver; no package, no network. PyTorch, compute-sanitizer, ncu and MPS are used where
# they are. Exits 0 if nothing failed, 1 if something did or a figure was missed, 2 if nothing can run here.
set -uo pipefail

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}
fail() {
  echo "run.sh: $1" >&2
  exit 2
}

only='' out=${OUT:-gpu-results} total=570 bundle=''
while (($#)); do
  case $1 in
    --only | --out | --seconds)
      (($# > 1)) || fail "$1 needs a value"
      case $1 in --only) only=,$2, ;; --out) out=$2 ;; *) total=$2 ;; esac
      shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; fail "unknown argument '$1'" ;;
    *) bundle=$1; shift ;;
  esac
done
[[ $total =~ ^[1-9][0-9]*$ ]] || fail "--seconds is '$total': give a number of seconds"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z $bundle ]]; then
  if [[ -d $here/bin ]]; then bundle=$here; else bundle=$here/../../build/gpu-bundle; fi
fi
[[ -x $bundle/bin/kvsteward_gpu_bench ]] || fail "'$bundle' is no bundle: make one with ./dev gpu-bundle"
bundle=$(cd "$bundle" && pwd)
bin=$bundle/bin

# ---- Can anything run here? ------------------------------------------------------------------------------------------
needed=$(<"$bundle/needs-glibc")
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
glibc=${glibc##* }
[[ $(printf '%s\n%s\n' "$needed" "${glibc:-0}" | sort -V | head -n 1) == "$needed" ]] ||
  fail "glibc ${glibc:-of unknown version} is older than $needed, which the bundle was linked against"
if command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L 2>&1) || fail "no GPU to run on; nvidia-smi says: ${gpus%%$'\n'*}"
else
  compgen -G '/dev/nvidia[0-9]*' >/dev/null || fail "no GPU to run on: there is neither nvidia-smi nor /dev/nvidia0"
  gpus='a GPU, no nvidia-smi'
fi
mkdir -p "$out" || fail "cannot make the folder '$out'"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
player=
# shellcheck disable=SC2317  # called by the trap
clean_up() {
  [[ -z $player ]] || kill "$player" 2>/dev/null
  stop_mps
  rm -rf "$work"
}

# ---- Running programs ------------------------------------------------------------------------------------------------
names=() results=() times=() started=() status=0

note() { # NAME RESULT MICROSECONDS
  names+=("$1") results+=("$2") times+=("$3")
  [[ $2 != FAILED* ]] || status=1
}
skip() { note "$1" "skipped: $2" 0; }
wanted() { # PART [PROGRAM]: is it asked for, or may some program of it be?
  [[ -z $only || $only == *,$1,* || (-n ${2:-} && ($only == *,$2,* || $only == *,${2%_test},*)) ]]
}
left() { echo $((total - SECONDS)); }

# start NAME SECONDS COMMAND...: in the background; at most eight at once.
start() {
  local name=$1 limit=$2
  shift 2
  ((limit <= $(left))) || limit=$(left)
  if ((limit <= 0)); then
    skip "$name" "no time left of $total s"
    return
  fi
  while (($(jobs -rp | wc -l) >= 8)); do wait -n; done
  (
    began=${EPOCHREALTIME/[.,]/}
    timeout --kill-after=5 "$limit" "$@" >"$work/$name.txt" 2>&1
    code=$?
    echo "$code $((${EPOCHREALTIME/[.,]/} - began)) $limit" >"$work/$name.result"
  ) &
  started+=("$name:$!")
}
# Waits for what was started and notes how it went; prints the end of what failed.
collect() {
  local one name code micros limit result
  for one in "${started[@]}"; do
    name=${one%:*}
    wait "${one##*:}"
    read -r code micros limit <"$work/$name.result"
    case $code in
      0) result=passed ;;
      124 | 137) result="FAILED: stopped after $limit s, or killed" ;;
      *) result="FAILED: exit $code" ;;
    esac
    if [[ $code == 0 ]]; then
      echo "---- $name: $result"
    else
      printf -- '---- %s: %s\n' "$name" "$result"
      tail -n 12 "$work/$name.txt"
    fi
    note "$name" "$result" "$micros"
  done
  started=()
}
# run NAME SECONDS COMMAND...: alone; succeeds if the command does.
run() {
  start "$@"
  collect
  [[ ${results[-1]} == passed ]]
}
show() { [[ ! -s $work/$1.txt ]] || cat "$work/$1.txt"; } # NAME: all that it printed
kernel_tests() {
  local program
  for program in "$bin"/*_test; do
    case ${program##*/} in vmm_test | cuda_engine_test) ;; *) echo "${program##*/}" ;; esac
  done
}
has_torch() { command -v python3 >/dev/null && python3 -c 'import torch' 2>/dev/null; }

# ---- The parts -------------------------------------------------------------------------------------------------------
part_kernels() {
  local program
  while IFS= read -r program; do
    wanted kernels "$program" && start "$program" 240 "$bin/$program"
  done < <(kernel_tests)
}
part_contract() {
  wanted contract cuda_engine_test || return 0
  local shard shards=6 # most of its time is the reference's, on one core
  for ((shard = 0; shard < shards; ++shard)); do
    start "cuda_engine_test-$shard" 300 env GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard \
      "$bin/cuda_engine_test" --gtest_brief=1
  done
}
part_vmm() { # alone: it looks at what the device has free
  wanted vmm vmm_test || return 0
  # Kills of each side: what ten minutes hold beside everything else, or, asked for alone, a hundred.
  local rounds=5 seconds=120
  if [[ $only == ,vmm, ]]; then rounds=100 seconds=$total; fi
  run vmm_test "$seconds" "$bin/vmm_test" "$rounds"
  show vmm_test
}
part_demo() {
  wanted demo || return 0
  run demo 120 "$bundle/demo.sh" "$bin" "$bundle/retrieval.safetensors" "$work/demo" cuda
}
part_sanitize() {
  local tool program one
  for tool in memcheck racecheck initcheck synccheck; do
    wanted sanitize "$tool" || continue
    if ! command -v compute-sanitizer >/dev/null; then
      skip "$tool" "no compute-sanitizer"
      continue
    fi
    while IFS= read -r program; do
      start "$tool-${program%_test}" 150 env KVSTEWARD_GPU_TEST_SMALL=1 compute-sanitizer --tool "$tool" \
        --error-exitcode 9 "$bin/$program"
    done < <(kernel_tests)
  done
  # A sanitizer that cannot work on this machine has found nothing.
  for one in "${started[@]}"; do
    wait "${one##*:}"
    if grep -qi 'device not supported' "$work/${one%:*}.txt"; then
      skip "${one%:*}" "compute-sanitizer does not support this device or machine"
    else
      kept+=("$one")
    fi
  done
  started=("${kept[@]}")
  collect
}
part_bench() {
  wanted bench || return 0
  local rate=()
  if has_torch; then
    rate=(--matmul-tflops "$(timeout 60 python3 "$bundle/torch_side.py" --matmul)")
    [[ ${rate[1]} =~ ^[0-9.]+$ ]] || rate=()
  fi
  run bench 120 "$bin/kvsteward_gpu_bench" "${rate[@]}" --json "$out/bench.json" --rows "$work/bench.rows" \
    --mask "$work/mask"
  show bench
}
part_torch() {
  wanted torch || return 0
  if ! has_torch; then
    skip torch "no PyTorch for python3"
  elif [[ ! -s $out/bench.json || ! -s $work/mask ]]; then
    skip torch "the bench part, which it compares with, has left no figures"
  else
    run torch 120 env PYTHONDONTWRITEBYTECODE=1 python3 "$bundle/torch_side.py" --ours "$out/bench.json" \
      --mask "$work/mask" --json "$out/torch.json" --rows "$work/torch.rows"
    show torch
  fi
}
# DRAM bytes that scoring reads, against keys and norms: 32k tokens of 8 heads.
part_ncu() {
  wanted ncu || return 0
  if ! command -v ncu >/dev/null; then
    skip ncu "no ncu"
    return
  fi
  run ncu 60 ncu --clock-control none --cache-control none --print-units base --csv \
    --metrics dram__bytes_read.sum --kernel-name 'regex:RowTerms|ReduceKernel|Combine|FoldKernel|FoldTiles|RefineTiles' \
    "$bin/kvsteward_gpu_bench" --score-once || return 0
  awk -F '","' -v floor=$((32768 * 8 * (256 + 4))) '
    /dram__bytes_read.sum/ { value = $NF; gsub(/[",]/, "", value); sum += value; ++kernels }
    END {
      if (kernels == 0) exit 1
      ratio = sum / floor
      printf "DRAM bytes read by scoring, 32k\t%.1f MB\t%.1f\t%.2f\t1.10 x\t-\t%s\n", sum / 1e6, floor / 1e6, ratio,
        ratio <= 1.1 ? "met" : "MISSED"
    }' "$work/ncu.txt" >"$work/ncu.rows" || note ncu-figure "FAILED: no dram__bytes_read.sum in ncu's output" 0
}
# The same benchmark while another process reads a cache over and over, as a decoding worker does.
beside_worker() { # NAME
  if (($(left) < 15)); then
    skip "$1" "no time left of $total s"
    return
  fi
  "$bin/kvsteward_gpu_bench" --play-worker 60 >"$work/$1-worker.txt" 2>&1 &
  player=$!
  sleep 3
  run "$1" 50 "$bin/kvsteward_gpu_bench" --repetitions 50 --rows "$work/$1.all"
  kill -0 "$player" 2>/dev/null || note "$1-worker" "FAILED: the process beside it ended too soon" 0
  kill "$player" 2>/dev/null
  wait "$player" 2>/dev/null
  player=
  # Limits are for a GPU of one's own.
  [[ ! -s $work/$1.all ]] || awk -F '\t' -v OFS='\t' -v name="$1" '$7 != "-" { $1 = name ": " $1; $5 = $6 = $7 = "-"; print }' "$work/$1.all" \
    >"$work/$1.rows"
}
mps=
stop_mps() {
  [[ -z $mps ]] || echo quit | nvidia-cuda-mps-control >/dev/null 2>&1
  mps=
}
part_busy() {
  wanted busy || return 0
  beside_worker time-slicing
  if ! command -v nvidia-cuda-mps-control >/dev/null; then
    skip mps "no nvidia-cuda-mps-control"
    return
  fi
  export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps
  mkdir -p "$work/mps"
  if nvidia-cuda-mps-control -d >"$work/mps.txt" 2>&1; then
    mps=1
    beside_worker mps
    stop_mps
  else
    skip mps "nvidia-cuda-mps-control does not start"
  fi
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}

# ---- The table -------------------------------------------------------------------------------------------------------
seconds_of() { printf '%d.%03d' $(($1 / 1000000)) $(($1 / 1000 % 1000)); }

print_table() {
  local i
  printf '\n%-32s %9s  %s\n' name seconds result
  for i in "${!names[@]}"; do
    printf '%-32s %9s  %s\n' "${names[i]}" "$(seconds_of "${times[i]}")" "${results[i]}"
  done
  [[ -s $work/all.rows ]] || return 0
  printf '\n%-58s %16s %9s %7s %9s %9s  %s\n' figure value floor ratio 'at most' good verdict
  awk -F '\t' '{ printf "%-58s %16s %9s %7s %9s %9s  %s\n", $1, $2, $3, $4, $5, $6, $7 }' "$work/all.rows"
}
print_json() {
  local i comma=''
  quote() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }
  printf '{"gpu": %s, "programs": [' "$(quote "${gpus%%$'\n'*}")"
  for i in "${!names[@]}"; do
    printf '%s\n  {"name": %s, "result": %s, "seconds": %s}' "$comma" "$(quote "${names[i]}")" \
      "$(quote "${results[i]}")" "$(seconds_of "${times[i]}")"
    comma=,
  done
  printf '],\n "figures": ['
  comma=''
  local name value floor ratio most good verdict
  while IFS=$'\t' read -r name value floor ratio most good verdict; do
    printf '%s\n  {"name": %s, "value": %s, "floor": %s, "ratio": %s, "at_most": %s, "good": %s, "verdict": %s}' \
      "$comma" "$(quote "$name")" "$(quote "$value")" "$(quote "$floor")" "$(quote "$ratio")" "$(quote "$most")" \
      "$(quote "$good")" "$(quote "$verdict")"
    comma=,
  done <"$work/all.rows"
  printf ']}\n'
}

trap clean_up EXIT
kept=()
echo "$gpus"
part_kernels
part_contract
collect
part_vmm
part_demo
part_bench
part_torch
part_ncu
part_busy
part_sanitize # last: it takes what time is left

((${#names[@]})) || fail "--only '${only//,/ }' names no part and no program"
for rows in bench torch ncu time-slicing mps; do
  [[ ! -s $work/$rows.rows ]] || cat "$work/$rows.rows"
done >"$work/all.rows"
! grep -q $'\tMISSED$' "$work/all.rows" || status=1
print_json >"$out/results.json"
for log in "$work"/*.txt; do
  printf '======== %s\n' "${log##*/}"
  cat "$log"
done >"$out/log.txt"
print_table | tee "$out/table.txt"
exit "$status"
