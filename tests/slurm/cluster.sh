#!/usr/bin/env bash
# A SLURM cluster of one machine: munged, slurmctld and slurmd with every file in one folder, as whoever runs this.
#
#   cluster.sh up FOLDER      start it; then: export SLURM_CONF=FOLDER/slurm.conf
#   cluster.sh down FOLDER    end its jobs and take it down
#
# Needs Debian's slurm-wlm (slurmctld, slurmd, sbatch and munge), and root, since slurmd starts jobs as their owners.
set -euo pipefail

folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

up() {
    mkdir -p "$folder"/{state,spool,log,run}
    chmod 755 "$folder"
    dd if=/dev/urandom bs=128 count=1 of="$folder/munge.key" status=none
    chmod 400 "$folder/munge.key"
    munged --force --key-file "$folder/munge.key" --socket "$folder/run/munge.socket" --num-threads 2 \
        --pid-file "$folder/run/munged.pid" --log-file "$folder/log/munged.log" --seed-file "$folder/run/munged.seed"
    local node
    node=$(hostname -s)
    cat > "$SLURM_CONF" <<END
ClusterName=one-machine
SlurmctldHost=$node(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
CredType=cred/munge
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmctld -f "$SLURM_CONF" -c
    slurmd -f "$SLURM_CONF" -c
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && return
        sleep 0.5
    done
    echo "the cluster does not come up; see $folder/log" >&2
    exit 1
}

down() {
    scancel --user "$(id -un)" 2> /dev/null || true
    for program in slurmd slurmctld munged; do
        local file=$folder/run/$program.pid
        [ -f "$file" ] || continue
        local pid
        pid=$(cat "$file")
        kill "$pid" 2> /dev/null || true
        for _ in $(seq 40); do kill -0 "$pid" 2> /dev/null || break; sleep 0.25; done
        kill -9 "$pid" 2> /dev/null || true
    done
}

case $1 in
up) up ;;
down) down ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
