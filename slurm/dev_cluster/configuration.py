"""The configuration files of a cluster, as text. Pure."""

from __future__ import annotations

import os
import pwd

from .layout import Layout, Settings

CLUSTER_NAME = "dev"
ACCOUNT = "dev"


def slurm_conf(layout: Layout, settings: Settings) -> str:
    """slurm.conf: two partitions over all nodes, of which ``urgent`` preempts ``batch`` by requeueing its jobs."""
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={settings.address} Port={port} CPUs={settings.cpus} RealMemory={settings.memory_mb}"
        + (f" Gres=gpu:{settings.gpus}" if settings.gpus else "")
        for name, port in zip(settings.node_names, settings.node_ports, strict=True)
    )
    names = ",".join(settings.node_names)
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost=localhost({settings.address})
SlurmctldPort={settings.control_port}
SlurmUser={running_user()}
SlurmdUser={running_user()}
{listening_line(settings)}
AuthType=auth/munge
CredType=cred/munge
# A requeued job is held back for twice the time that a credential lives: 10 s instead of 4 minutes.
AuthInfo=socket={layout.munge_socket},cred_expire=5

StateSaveLocation={layout.state_dir}
SlurmdSpoolDir={layout.root}/%n
SlurmctldPidFile={layout.root}/slurmctld.pid
SlurmdPidFile={layout.root}/slurmd-%n.pid
SlurmctldDebug=info
SlurmdDebug=info

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
# Nodes may claim more CPUs than the machine has.
SlurmdParameters=config_overrides

SchedulerType=sched/backfill
# Jobs start within a second or so; a cluster of thousands could not afford this.
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={settings.memory_mb // settings.cpus}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MaxArraySize={settings.max_array_size}
MaxJobCount={max(50_000, 2 * settings.max_array_size)}
MinJobAge=300
MailProg=/bin/true

SlurmctldTimeout=30
# A silent node is declared down after some 15 s.
SlurmdTimeout=8
ReturnToService=2
KillWait=5
UnkillableStepTimeout=30
BatchStartTimeout=8
InactiveLimit=0
MessageTimeout=5
# Messages go to each node directly: a dead one delays nobody.
TreeWidth=65533

{accounting_lines(layout, settings)}
{"GresTypes=gpu" if settings.gpus else ""}
{nodes}
PartitionName=batch Nodes={names} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={settings.grace_s}
PartitionName=urgent Nodes={names} PriorityTier=10 PreemptMode=OFF
"""


def running_user() -> str:
    """The user of every daemon: whoever starts the cluster, whatever the environment says of it."""
    return pwd.getpwuid(os.getuid()).pw_name


def listening_line(settings: Settings) -> str:
    """Where daemons and srun listen: by default everywhere; else only at what the machine's own name stands for."""
    return "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if settings.only_loopback else ""


def accounting_lines(layout: Layout, settings: Settings) -> str:
    """Where slurmctld sends what became of jobs."""
    if not settings.accounting:
        return "AccountingStorageType=accounting_storage/none"
    # The "password" is the munge socket by which slurmctld proves itself to slurmdbd.
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={settings.address}
AccountingStoragePort={settings.database_port}
AccountingStoragePass={layout.munge_socket}
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu"""


#: No cgroups are used. Left to find out which version there is, slurmd would not start where none is mounted, and would
#: want to write to version 2, which a container may not.
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"


def gres_conf(layout: Layout, settings: Settings) -> str:
    """gres.conf: GPUs in name only: links to /dev/null stand for the devices that slurmd looks for."""
    return "".join(f"Name=gpu File={layout.gpu_path(index)}\n" for index in range(settings.gpus))


def slurmdbd_conf(layout: Layout, settings: Settings) -> str:
    """slurmdbd.conf. MariaDB is reached over its Unix socket and believes the user that the kernel names."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost=localhost
DbdAddr={settings.address}
DbdPort={settings.database_port}
{listening_line(settings)}
SlurmUser={running_user()}
PidFile={layout.root}/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={running_user()}
StorageLoc=slurm_acct_db
"""
