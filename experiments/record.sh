#!/usr/bin/env bash
# Records the studies of results/, those that are needed most first: trains them below my_results/recording, where finished
# runs are skipped and interrupted ones go on, and puts each finished study into results/ in its archived form.
# Usage: experiments/record.sh [JOBS]  JOBS studies at once, one core each (default: 2).
set -euo pipefail
cd "$(dirname "$0")/.."
three="42 43 44" ten="42 43 44 45 46 47 48 49 50 51"

work=my_results/recording

study() { # preset experiment seeds [options …] -> folder's name below the preset, and the command line
  local preset=$1 experiment=$2 seeds=$3 name=$2
  shift 3
  if [ $# -gt 0 ]; then name=$experiment-$(sed 's/^--//; s/ /-/g' <<< "$*"); fi
  echo "$name $preset $experiment --env $preset --seeds $seeds --results-dir $work/$name $*"
}

all() {
  for preset in interior scaled thesis; do
    study $preset recipe "$ten"
    study $preset clamped_rates "$ten"
    study $preset frozen_actors "$ten" --with-recipe
  done
  for preset in interior scaled; do
    study $preset baseline "$ten"
    study $preset input_norm "$ten"
    study $preset frozen_actors "$ten"
  done
  study thesis frozen_actors "$three"
  study scaled adam_memory "$three" # beta1 0.5; the baseline has 0.9
  for beta1 in 0 0.99; do study scaled adam_memory "$three" --beta1 $beta1; done
  study scaled exact_derivative "$three"
  study scaled exact_derivative "$three" --adam-eps 1e-30
  for part in input_norm reward_norm step_limit small_noise slow_targets recent_replay uniform_replay last_four; do
    for preset in interior scaled; do study $preset recipe "$three" --without $part; done
  done
  for preset in interior scaled; do study $preset step_limit "$ten"; done
  study interior input_norm "$three" --debiased
  for experiment in reward_norm critic_layernorm; do
    for preset in interior scaled; do study $preset $experiment "$three"; done
  done
  for experiment in pre_activation_penalty inverting_gradients output_norm penultimate_norm td3; do
    study interior $experiment "$three"
  done
  study interior adam_memory "$three"
  study interior exact_derivative "$three"
  for experiment in layernorm fullnorm linear_activation gradient_clipping adaptive_scaling large_actor; do
    for preset in interior scaled; do study $preset $experiment "$three"; done
  done
  for experiment in baseline layernorm fullnorm; do study thesis $experiment "$three"; done
}

all | xargs -P "${1:-2}" --process-slot-var=CORE -I{} bash -c '
  set -euo pipefail
  set -- {}
  taskset -c "$CORE" python "experiments/$3/run_$3_experiment.py" --threads 1 "${@:4}"
  mkdir -p "results/$2"
  new="results/$2/.$1.new" # whole before the old one goes
  rm -rf "$new"
  cp -r "'$work'/$1/$2/$3" "$new"
  rm -f "$new/.lock" "$new/report.html"
  python -m common.recording.archive "$new"
  rm -rf "results/$2/$1"
  mv "$new" "results/$2/$1"'
