#!/usr/bin/env bash
# Runs every program in a folder and prints one table last: name, result, seconds. Exit 1 if one failed or there is none.
#   tests/gpu/run.sh FOLDER [SECONDS]   SECONDS: after which a program is stopped and has failed (300)
# Needs bash and coreutils, no package and no network.
set -uo pipefail

if [[ $# -lt 1 || $# -gt 2 || ! -d $1 ]]; then
  echo "usage: $0 FOLDER [SECONDS]" >&2
  exit 2
fi
folder=$1
limit=${2:-300}

shopt -s nullglob
names=() results=() times=()
status=0
for program in "$folder"/*; do
  [[ -f $program && -x $program && $program != *.sh && $program != *.so* ]] || continue
  name=${program##*/}
  echo "---- $name"
  began=${EPOCHREALTIME/[.,]/}
  timeout --kill-after=10 "$limit" "$program"
  code=$?
  ended=${EPOCHREALTIME/[.,]/}
  case $code in
    0) result=passed ;;
    124 | 137) result="FAILED (stopped after $limit s, or killed)" ;;
    *) result="FAILED (exit $code)" ;;
  esac
  [[ $code -eq 0 ]] || status=1
  names+=("$name") results+=("$result") times+=("$((ended - began))")
done

if [[ ${#names[@]} -eq 0 ]]; then
  echo "$0: no program in $folder" >&2
  exit 1
fi
echo
printf '%-32s %9s  %s\n' name seconds result
for i in "${!names[@]}"; do
  seconds=$(printf '%d.%03d' $((times[i] / 1000000)) $((times[i] / 1000 % 1000)))
  printf '%-32s %9s  %s\n' "${names[i]}" "$seconds" "${results[i]}"
done
exit "$status"
