#!/bin/sh
# Undoes everything of the real nodes of one cluster, whatever state they are in: $1 is the cluster's directory, $2 its
# id. Needs nothing but the id: processes carry it in their environment, control groups and the network device in
# their names. Network namespaces, bridges, routes, mounts and sysctls belong to namespaces that end with their
# last process. Processes are killed and not stopped: the pods are only reachable through programs that may have ended.
set -u
id=$2

groups() {
    find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "crofter-$id" 2>/dev/null
}

# The nodes' programs and the shims they leave behind carry the mark; a pod's processes are in the control groups.
processes() {
    {
        grep -lzxsF "CROFTER_REAL_NODES=$id" /proc/[0-9]*/environ | cut -d/ -f3
        for group in $(groups); do find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null; done
    } | sort -u
}

devices() {
    grep -lxsF "crofter-$id" /sys/class/net/*/ifalias | cut -d/ -f5
}

remains() {
    [ -n "$(processes)" ] || [ -n "$(groups)" ] || [ -n "$(devices)" ]
}

tries=150
while remains && [ "$tries" -gt 0 ]; do
    tries=$((tries - 1))
    # A frozen process does not notice that it was killed.
    for group in $(groups); do
        find "$group" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' thaw {} + 2>/dev/null
    done
    for process in $(processes); do kill -KILL "$process" 2>/dev/null; done
    for group in $(groups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; done
    for device in $(devices); do ip link delete "$device" 2>/dev/null; done
    remains && sleep 0.1
done

if remains; then
    echo "real nodes of $id: still there are processes [$(processes | tr '\n' ' ')]," \
        "control groups [$(groups | tr '\n' ' ')], devices [$(devices | tr '\n' ' ')]" >&2
    exit 1
fi
