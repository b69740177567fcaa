#!/usr/bin/env bash
# A small study on a real Slurm of one machine: four parts, of which one is queued again while it trains (scontrol requeue)
# and one is told of the end of its time (SIGUSR2, as Slurm does before it ends a job); then the merged files are compared
# with those of the same study in one piece. Needs root, Debian's slurm-wlm and munge, and requirements-cluster.txt.
#
#   EPISODES=60 PYTHON=python benchmarks/slurm_trial.sh > benchmarks/results/slurm_trial.txt
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
trial=$(mktemp -d /var/tmp/slurm_trial.XXXXXX)
chmod 755 "$trial"
export SLURM_CONF=$trial/slurm.conf OMP_NUM_THREADS=1
host=$(hostname -s)
mkdir "$trial/state" "$trial/spool"
cat > "$SLURM_CONF" << END
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$trial/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$trial/state
SlurmdSpoolDir=$trial/spool
SlurmctldPidFile=$trial/slurmctld.pid
SlurmdPidFile=$trial/slurmd.pid
SlurmctldLogFile=$trial/slurmctld.log
SlurmdLogFile=$trial/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=trial Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
dd if=/dev/urandom of="$trial/munge.key" bs=1024 count=1 status=none
chmod 600 "$trial/munge.key"
munged --force --socket="$trial/munge.socket" --key-file="$trial/munge.key" --pid-file="$trial/munge.pid" \
  --log-file="$trial/munge.log" --seed-file="$trial/munge.seed" 2> /dev/null
trap 'for daemon in slurmd slurmctld munge; do kill "$(cat "$trial/$daemon.pid")" 2> /dev/null; done; sleep 3; rm -rf "$trial"' EXIT
slurmctld
slurmd
until sinfo --noheader --states=idle | grep -q trial; do sleep 1; done
slurmctld -V
study="baseline --agents 10 --batch-size 16 --episodes ${EPISODES:-200} --actor-lrs 1e-3 1e-1 --critic-lrs 1e-3 1e-1 --seeds 1 2
  --actor-hidden 16 8 --critic-hidden 32 16 --threads 1 --checkpoint-minutes 0.01"
echo "--- in one piece"
"$python" experiments/baseline/run_baseline_experiment.py ${study#baseline} --results-dir "$trial/whole" > "$trial/whole.log" 2>&1
parts=$trial/parted/scaled/baseline/parts
echo "--- python -m common.submit baseline … --parts 4 --backend slurm --minutes 30 --jobs 2"
"$python" -m common.submit $study --results-dir "$trial/parted" --parts 4 --backend slurm --minutes 30 --jobs 2 \
  > "$trial/submit.log" 2>&1 &
submitter=$!
training() { until compgen -G "$parts/$1/checkpoint/*.json" > /dev/null; do kill -0 $submitter; sleep 0.2; done; }
job() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$parts/logs/slurm_jobs.json" "$1"; }
training 1-of-4
scontrol requeue "$(job 1-of-4)"
echo "part 1-of-4 was queued again by scontrol requeue"
training 2-of-4
timeout 3 scancel --signal=USR2 "$(job 2-of-4)" 2> /dev/null || true # would send it again and again
until grep -q "interrupted by" "$parts/logs/2-of-4.log"; do sleep 0.2; done
echo "part 2-of-4 was told that its time ends"
wait $submitter || { cat "$trial/submit.log"; tail -n 5 "$trial"/slurm*.log "$parts"/logs/*.log; exit 1; }
sed "s#$trial/##" "$trial/submit.log" | sed '/^figure/,$d'
for part in 1-of-4 2-of-4 3-of-4 4-of-4; do
  echo "--- log of part $part"
  sed "s#$trial/##g" "$parts/logs/$part.log" | grep -v "time by phase"
done
echo "--- parted and whole, the column wall_seconds apart"
"$python" - "$trial" << 'END'
import sys
from pathlib import Path

sys.path.insert(0, "tests")
from faults.resume_helpers import csv_bytes

parted, whole = (Path(sys.argv[1], name, "scaled", "baseline") for name in ("parted", "whole"))
assert csv_bytes(parted) == csv_bytes(whole)
same = [*csv_bytes(whole), *(path.name for path in whole.iterdir() if path.suffix in (".json", ".png"))]
assert all((parted / name).read_bytes() == (whole / name).read_bytes() for name in same if name != "runs.csv")
print("the same bytes:", *sorted(same))
END
